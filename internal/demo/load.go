package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
)

// source is a file to be read, with the size it had when it was found.
type source struct {
	path string
	size int64
}

// sources is what findSources found.
type sources struct {
	files     []source
	bytes     int64 // of all files
	pathBytes int
	skipped   int   // files and folders that could not be read
	why       error // the first reason
	limited   bool  // there was more than the limit
}

func (s *sources) skip(err error) {
	s.skipped++
	if s.why == nil {
		s.why = err
	}
}

// findSources lists the regular files under the roots, in the order of their
// names, until limit bytes are together. It stops there, rather than at the end
// of what may be a whole disk.
func findSources(ctx context.Context, roots []string, limit int64) (*sources, error) {
	s := &sources{}
	seen := map[string]bool{}
	for _, root := range roots {
		// A root may be a link, as GOROOT is in some distributions; links further
		// down are not followed, or a tree could contain itself.
		real, err := filepath.EvalSymlinks(root)
		if err != nil {
			return nil, &ReadError{err}
		}
		err = filepath.WalkDir(real, func(path string, d fs.DirEntry, err error) error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				s.skip(err)
				return nil
			}
			if !d.Type().IsRegular() || seen[path] {
				return nil
			}
			seen[path] = true
			info, err := d.Info()
			if err != nil {
				s.skip(err)
				return nil
			}
			if info.Size() > limit-s.bytes {
				s.limited = true
				return fs.SkipAll
			}
			s.files = append(s.files, source{path, info.Size()})
			s.bytes += info.Size()
			s.pathBytes += len(path)
			return nil
		})
		if err != nil {
			return nil, err
		}
		if s.limited {
			break
		}
	}
	return s, nil
}

// spread says where in the text each file goes, and how long the text is: one
// zero byte follows every file, which keeps two files apart.
func (s *sources) spread() (at []int, length int) {
	at = make([]int, len(s.files))
	for i, f := range s.files {
		at[i] = length
		length += int(f.size) + 1
	}
	return at, length
}

// load reads the files into text, several at a time, each straight to its
// place, and returns their index. A file that has grown since it was found is
// cut to its old size, one that has shrunk leaves zeros, and one that cannot be
// read is skipped. done counts bytes as they come.
func (s *sources) load(ctx context.Context, text []byte, done *atomic.Int64) ([]entry, error) {
	at, _ := s.spread()
	lengths := make([]int, len(s.files))
	errs := make([]error, len(s.files))
	var next atomic.Int64
	var all sync.WaitGroup
	// Twice the cores: some wait for the disk while others copy.
	for range 2 * runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(s.files) {
					return
				}
				lengths[i], errs[i] = readInto(s.files[i].path, text[at[i]:][:s.files[i].size])
				done.Add(s.files[i].size)
			}
		})
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var files []entry
	for i, f := range s.files {
		if errs[i] != nil {
			s.skip(errs[i])
			// What came before the error belongs to no file, and is not left there.
			clear(text[at[i]:][:f.size])
			continue
		}
		files = append(files, entry{f.path, extent{at[i], lengths[i]}})
	}
	return files, nil
}

// readInto reads a file into p and returns how much there was of it.
func readInto(path string, p []byte) (int, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	n, err := io.ReadFull(f, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", path, err)
	}
	return n, nil
}
