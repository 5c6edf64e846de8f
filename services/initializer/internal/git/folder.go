package git

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const folderPrefix = "lockstep-initializer-"

// claimFolder makes a temporary folder for this process, and removes those of processes that were killed before they
// could do so. Each holds a lock on its own for as long as it lives; a young one may not have it yet.
func claimFolder() (string, *os.File, error) {
	left, err := filepath.Glob(filepath.Join(os.TempDir(), folderPrefix+"*"))
	if err != nil {
		return "", nil, err
	}
	for _, folder := range left {
		if info, err := os.Lstat(folder); err != nil || !info.IsDir() || time.Since(info.ModTime()) < time.Minute {
			continue
		}
		if lock, err := lockFolder(folder); err == nil { // else it is in use, or not ours
			_ = os.RemoveAll(folder)
			_ = lock.Close()
		}
	}
	folder, err := os.MkdirTemp("", folderPrefix)
	if err != nil {
		return "", nil, err
	}
	lock, err := lockFolder(folder)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(folder))
	}
	return folder, lock, nil
}

func lockFolder(folder string) (*os.File, error) {
	f, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
