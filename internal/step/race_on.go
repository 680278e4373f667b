//go:build race

package step

// raced: the race detector would take a plain store for an access like any other.
const raced = true
