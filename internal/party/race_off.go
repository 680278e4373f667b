//go:build !race

package party

// Shadow is where the race detector looks for what a structure orders; without it
// there is nothing.
type Shadow struct{}

// Giving is called before something is handed on.
func (*Shadow) Giving() {}

// Taken is called after something was taken.
func (*Shadow) Taken() {}
