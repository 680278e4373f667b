package pyproc

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// versionName is "3", "3.12" or "3.12.1"; not compiled in processes that never ask.
var versionName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\d+(\.\d+){0,2}$`) })

// Find returns the path of an interpreter. What is asked for may be
//
//	""              the virtual environment that is active (VIRTUAL_ENV), or python3 of PATH
//	"3.12"          pyenv's newest 3.12, or python3.12 of PATH; "3.12.1" pyenv's
//	"envs/model"    a directory with bin/python in it: a virtual or conda environment
//	"/usr/bin/…"    a program
//	"python3.11"    a program of PATH
//
// Whether it is a Python is found out when it is started. Errors wrap
// fs.ErrNotExist or the system's.
func Find(what string) (string, error) {
	switch {
	case what == "":
		if env := os.Getenv("VIRTUAL_ENV"); env != "" {
			return inEnv(env)
		}
		path, err := inPath("python3")
		if err != nil {
			path, err = inPath("python")
		}
		if err != nil {
			return "", fmt.Errorf("%w; install Python, or name an interpreter", err)
		}
		return path, nil
	case versionName().MatchString(what):
		return byVersion(what)
	}
	if info, err := os.Stat(what); err == nil && info.IsDir() {
		return inEnv(what)
	}
	path, err := inPath(what)
	if err != nil {
		return "", fmt.Errorf("%w; it may be a program, a version as 3.12, or the directory of an environment", err)
	}
	return path, nil
}

// inPath is exec.LookPath with an absolute result, as the child may be started
// elsewhere.
func inPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		return "", fmt.Errorf("no interpreter %q in PATH: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return "", fmt.Errorf("interpreter: %w", err)
	}
	return filepath.Abs(path)
}

// inEnv does not follow links: by its own path an interpreter finds its
// environment.
func inEnv(dir string) (string, error) {
	for _, name := range []string{"bin/python3", "bin/python"} {
		if path, err := inPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no interpreter in %s: neither bin/python3 nor bin/python is a program there: %w", dir, fs.ErrNotExist)
}

func byVersion(version string) (string, error) {
	root := os.Getenv("PYENV_ROOT")
	if home, err := os.UserHomeDir(); root == "" && err == nil {
		root = filepath.Join(home, ".pyenv")
	}
	dirs, _ := filepath.Glob(filepath.Join(root, "versions", version+"*"))
	best, newest := "", -1
	for _, dir := range dirs {
		rest := strings.TrimPrefix(filepath.Base(dir), version)
		patch, err := strconv.Atoi(strings.TrimPrefix(rest, "."))
		switch {
		case rest == "":
			patch = 1 << 30 // just what was asked for
		case err != nil || rest[0] != '.':
			continue // 3.1 is not 3.12, and 3.13.0rc1 is no release
		}
		if path, err := inEnv(dir); err == nil && patch > newest {
			best, newest = path, patch
		}
	}
	if best != "" {
		return best, nil
	}
	path, err := inPath("python" + version)
	if err != nil {
		return "", fmt.Errorf("no Python %s: neither in %s nor as python%s in PATH: %w",
			version, filepath.Join(root, "versions"), version, fs.ErrNotExist)
	}
	return path, nil
}
