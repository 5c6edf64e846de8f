package postgres

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Home is the folder of this user's Lockstep data: <user cache>/lockstep, or when that cannot be made or when the
// server's user could not get there (root's home is closed to others), a folder below /var/lib or /var/tmp.
// It is made if it is missing.
func Home() (string, error) {
	var candidates []string
	if cache, err := os.UserCacheDir(); err == nil {
		candidates = append(candidates, filepath.Join(cache, "lockstep"))
	}
	if os.Geteuid() == 0 {
		candidates = append(candidates, "/var/lib/lockstep")
	}
	candidates = append(candidates, "/var/tmp/lockstep-"+strconv.Itoa(os.Geteuid()))
	return firstHome(candidates)
}

func firstHome(candidates []string) (string, error) {
	var lacked []error
	for _, dir := range candidates {
		err := makeHome(dir)
		if err == nil {
			return dir, nil
		}
		lacked = append(lacked, err)
	}
	return "", fmt.Errorf("no folder for the data: %w", errors.Join(lacked...))
}

func makeHome(dir string) error {
	if err := passable(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil { // 0711: the server's user passes through, and lists nothing
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	// /var/tmp is everybody's: what lies there under our name may be a stranger's.
	if stat, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("%s is not a folder of ours", dir)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // as above, whatever the umask
		return err
	}
	return passable(dir)
}

// passable says whether another user can get to dir. Only root needs that: everybody else runs the server as
// oneself. What does not exist yet will be made passable.
func passable(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for {
		info, err := os.Stat(dir)
		if err == nil && info.Mode()&0o001 == 0 {
			return fmt.Errorf("%s is closed to the server's user", dir)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil
		}
		dir = parent
	}
}
