package source

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/klauspost/compress/zstd"
)

// Unpack writes a source into a folder, which must exist and should be empty. Nothing is written outside of it,
// whatever the tar file says, and files are 0644 or 0755. Symbolic links are made as they were committed and may point
// anywhere: who reads the tree later must use an os.Root too. After an error the folder holds a part of the tree, and
// is to be thrown away; an unknown id is ErrNotFound.
func Unpack(ctx context.Context, db *pgxpool.Pool, id int64, folder string) error {
	if err := unpack(ctx, db, id, folder); err != nil {
		return fmt.Errorf("unpack source %d: %w", id, err)
	}
	return nil
}

func unpack(ctx context.Context, db *pgxpool.Pool, id int64, folder string) error {
	packed, err := open(ctx, db, id)
	if err != nil {
		return err
	}
	decoder, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return err
	}
	defer decoder.Close()
	root, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()

	all := &io.LimitedReader{R: decoder, N: MaxTreeBytes + 1}
	files := tar.NewReader(all)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := write(root, header, files); err != nil {
			return fmt.Errorf("write %q: %w", header.Name, err)
		}
	}
	// Read to the end: only there the sum is known.
	if _, err := io.Copy(io.Discard, all); err != nil {
		return err
	}
	if all.N <= 0 {
		return ErrTooLarge
	}
	return nil
}

// write makes one entry of the tar file.
func write(root *os.Root, header *tar.Header, content io.Reader) error {
	if header.Typeflag == tar.TypeXGlobalHeader { // git's: the id of the commit
		return nil
	}
	name := path.Clean(header.Name)
	// A path of more than 4095 bytes (Linux: PATH_MAX) could be made, but by no name be opened again.
	if !filepath.IsLocal(name) || len(name) > 4095 || slices.ContainsFunc(strings.Split(name, "/"), func(s string) bool { return strings.EqualFold(s, ".git") }) {
		return errors.New("this name is not one of a tree")
	}
	if name == "." {
		return nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(header.Linkname, name)
	case tar.TypeReg:
		mode := os.FileMode(0o644)
		if header.Mode&0o100 != 0 {
			mode = 0o755
		}
		// O_EXCL: never through a link that came before, and nothing twice.
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	}
	return fmt.Errorf("an entry of type %q is not one of a tree", header.Typeflag)
}
