//go:build unix && !linux && !aix

package mem

// freeSpace returns what the file system of dir has left for us.
func freeSpace(dir string) (int64, bool) {
	s, err := SpaceOf(dir)
	return s.Free, err == nil && s.Size > 0
}
