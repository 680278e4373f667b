//go:build dragonfly || netbsd || openbsd || solaris

package mem

import (
	"errors"
	"fmt"
	"runtime"
)

// The C libraries of these systems make shared memory of files in a directory
// of theirs, under names that each derives in its own way.

// NameMax is the longest name in bytes.
const NameMax = 255

var errNoSystem = fmt.Errorf("%s has no place for shared memory that is known here: give a directory (Dir), "+
	"one on a file system in memory if there is one: %w", runtime.GOOS, errors.ErrUnsupported)

func noSystem() error { return errNoSystem }

func newSystem(string, int64, uint32, int) (*Object, error) { return nil, errNoSystem }
func openSystem(string, bool) (*Object, error)              { return nil, errNoSystem }
func lookupSystem(string) (Stat, error)                     { return Stat{}, errNoSystem }
func removeSystem(string, ID) (bool, error)                 { return false, errNoSystem }
func unlinkSystem(string) error                             { return errNoSystem }
func systemLeaseDir() (string, error)                       { return "", errNoSystem }
func lockBeside(string, string, int) (func(), bool, error)  { return nil, false, errNoSystem }

// Exclusive makes OpenOrCreate calls for one name wait for each other, where a
// name appears before its block is complete. Here it does not.
func Exclusive(dir, name string) (release func(), err error) { return func() {}, nil }

// Anonymous returns errors.ErrUnsupported.
func Anonymous(size int64, flags int) (*Object, error) { return nil, errors.ErrUnsupported }
