//go:build !linux

package mem

// Headroom knows no limits on this system.
func Headroom(root string) []Limit { return nil }
