//go:build !unix

package proc

// TakesLines reports false: no Python has a resource tracker here.
func TakesLines(int) bool { return false }
