// Package source keeps the tree of a commit in the database: a tar file, compressed by zstd, in rows of at most 1 MiB.
// The initializer stores it once for each repository and tree; re-runs and all jobs of a matrix unpack the same.
package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/klauspost/compress/zstd"
)

// Limits of one source.
const (
	MaxPackedBytes = 256 << 20 // compressed
	MaxTreeBytes   = 2 << 30   // of the tar file, uncompressed
	chunkBytes     = 1 << 20
)

// ErrTooLarge means that the tree exceeds MaxPackedBytes or MaxTreeBytes. The next try would exceed them too.
var ErrTooLarge = errors.New("source: tree is too large")

// ErrNotFound means that there is no such source, or no more.
var ErrNotFound = errors.New("source: not found")

//go:embed queries/*.sql
var queries embed.FS

func query(name string) string {
	sql, err := queries.ReadFile("queries/" + name + ".sql")
	if err != nil {
		panic(err) // a file of this package
	}
	return string(sql)
}

// Store returns the id of the source of a tree (40 hex digits). If there is none yet, pack writes the tar file and Store
// keeps it. Several may store the same tree at once: one of them does, and all get its id. The error wraps pack's, or
// ErrTooLarge.
func Store(ctx context.Context, db *pgxpool.Pool, repository, tree string, pack func(io.Writer) error) (int64, error) {
	id, err := find(ctx, db, repository, tree)
	if err == nil || !errors.Is(err, ErrNotFound) {
		return id, err
	}
	// All of it on disk first: a transaction must not wait for whoever makes the tar file.
	packed, err := os.CreateTemp("", "lockstep-source-")
	if err != nil {
		return 0, fmt.Errorf("store source of tree %s: %w", tree, err)
	}
	defer func() { _ = packed.Close() }()
	if err := os.Remove(packed.Name()); err != nil { // it lives as long as it is open
		return 0, fmt.Errorf("store source of tree %s: %w", tree, err)
	}
	size, sum, err := compress(packed, MaxPackedBytes, MaxTreeBytes, pack)
	if err != nil {
		return 0, fmt.Errorf("pack source of tree %s: %w", tree, err)
	}
	err = pgx.BeginFunc(ctx, db, func(tx pgx.Tx) error {
		if _, err := packed.Seek(0, io.SeekStart); err != nil {
			return err
		}
		chunks := &chunkSource{from: packed, left: size}
		err := tx.QueryRow(ctx, query("insert"), pgx.NamedArgs{
			"repository": repository, "tree": tree, "byte_count": size, "chunk_count": (size + chunkBytes - 1) / chunkBytes, "sha256": sum,
		}).Scan(&chunks.id)
		if err != nil {
			return err
		}
		id = chunks.id
		_, err = tx.CopyFrom(ctx, pgx.Identifier{"ci_source_chunks"}, []string{"source_id", "seq", "data"}, chunks)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) { // somebody else was first
		return find(ctx, db, repository, tree)
	}
	if err != nil {
		return 0, fmt.Errorf("store source of tree %s: %w", tree, err)
	}
	return id, nil
}

func find(ctx context.Context, db *pgxpool.Pool, repository, tree string) (id int64, err error) {
	err = db.QueryRow(ctx, query("find"), pgx.NamedArgs{"repository": repository, "tree": tree}).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return 0, fmt.Errorf("find source of tree %s: %w", tree, err)
	}
	return id, nil
}

// compress writes to a file what pack writes, and returns the file's size and sum.
func compress(to io.Writer, maxPacked, maxTree int64, pack func(io.Writer) error) (size int64, sum []byte, err error) {
	digest := sha256.New()
	packed := &limitedWriter{to: io.MultiWriter(to, digest), left: maxPacked}
	encoder, err := zstd.NewWriter(packed, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, nil, err
	}
	err = pack(&limitedWriter{to: encoder, left: maxTree})
	if err := errors.Join(err, encoder.Close()); err != nil {
		return 0, nil, err
	}
	return maxPacked - packed.left, digest.Sum(nil), nil
}

type limitedWriter struct {
	to   io.Writer
	left int64
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, ErrTooLarge
	}
	n, err := w.to.Write(p)
	w.left -= int64(n)
	return n, err
}

// chunkSource feeds COPY with a file.
type chunkSource struct {
	id   int64
	from io.Reader
	left int64
	seq  int32
	data []byte
	err  error
}

func (c *chunkSource) Next() bool {
	if c.left == 0 || c.err != nil {
		return false
	}
	c.data = make([]byte, min(c.left, chunkBytes))
	_, c.err = io.ReadFull(c.from, c.data)
	c.left -= int64(len(c.data))
	c.seq++
	return c.err == nil
}

func (c *chunkSource) Values() ([]any, error) { return []any{c.id, c.seq - 1, c.data}, nil }
func (c *chunkSource) Err() error             { return c.err }

// chunkReader reads the compressed file, and at its end fails unless it was the one that was stored.
type chunkReader struct {
	ctx    context.Context // an io.Reader has no other way to end with the job
	db     *pgxpool.Pool
	id     int64
	seq    int32
	chunks int32
	sum    []byte
	digest hash.Hash
	data   []byte
}

func open(ctx context.Context, db *pgxpool.Pool, id int64) (*chunkReader, error) {
	r := &chunkReader{ctx: ctx, db: db, id: id, digest: sha256.New()}
	err := db.QueryRow(ctx, query("open"), pgx.NamedArgs{"id": id}).Scan(&r.chunks, &r.sum)
	if errors.Is(err, pgx.ErrNoRows) {
		err = ErrNotFound
	}
	return r, err
}

func (r *chunkReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		if r.seq == r.chunks {
			return 0, r.end()
		}
		err := r.db.QueryRow(r.ctx, query("chunk"), pgx.NamedArgs{"id": r.id, "seq": r.seq}).Scan(&r.data)
		if err != nil {
			return 0, fmt.Errorf("read chunk %d: %w", r.seq, err)
		}
		r.seq++
		r.digest.Write(r.data)
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

func (r *chunkReader) end() error {
	if !bytes.Equal(r.digest.Sum(nil), r.sum) {
		return errors.New("what is there is not what was stored: its sha256 differs")
	}
	return io.EOF
}
