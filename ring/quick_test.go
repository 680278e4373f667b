//go:build !race

package ring_test

const slower = 1
