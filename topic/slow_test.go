//go:build race

package topic_test

const slower = 10
