module github.com/sharedmem/shm/bench

go 1.26.0

replace github.com/sharedmem/shm => ../

require (
	github.com/edsrzf/mmap-go v1.2.0
	github.com/sharedmem/shm v0.0.0-00010101000000-000000000000
	golang.org/x/sys v0.49.0
)
