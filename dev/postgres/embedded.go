package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const embeddedVersion = embeddedpostgres.V18

// fetchEmbedded lets embedded-postgres download and unpack its programs into dir. It knows no way but to start a
// server too, and cannot as root, so we make its initdb fail on purpose and start the server as ever.
func fetchEmbedded(_ context.Context, dir string) (err error) {
	work, err := os.MkdirTemp(filepath.Dir(dir), "download-")
	if err != nil {
		return fmt.Errorf("make folder for the download: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	port, err := freePort()
	if err != nil {
		return err
	}
	if err := os.Chmod(work, 0o755); err != nil { // it becomes dir, which the server's user reads
		return fmt.Errorf("open %s: %w", work, err)
	}
	started := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(embeddedVersion).
		Port(uint32(port)).
		CachePath(filepath.Join(work, "cache")).
		RuntimePath(filepath.Join(work, "runtime")).
		BinariesPath(filepath.Join(work, "native")).
		Encoding("none: unpack only").
		Logger(io.Discard)).Start()
	if !exists(filepath.Join(work, "native", "bin", "initdb")) {
		return fmt.Errorf("download: %w", started)
	}
	if err := os.Rename(filepath.Join(work, "native"), dir); err != nil && !exists(filepath.Join(dir, "bin", "postgres")) {
		return fmt.Errorf("move the download into place: %w", err)
	}
	return nil
}

// freePort is a TCP port on loopback that nobody uses now. Somebody may take it before its user does.
func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("look for a free port: %w", err)
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
