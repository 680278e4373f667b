// Package step has the words that processes share and what they do with them, so
// that a test can decide what happens between any two of these steps.
//
// The types are sync/atomic's and sync's own, and the functions are those of package
// wait, but with the build tag shmcrash: then each asks [Explored], if there is
// one, before it does anything. internal/shmtest/explore is such a one. Without the
// tag none of this costs an instruction.
package step
