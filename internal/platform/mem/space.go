package mem

// Space describes the file system of a directory.
type Space struct {
	Size, Free         int64 // bytes; Size 0 means no limit
	Inodes, FreeInodes int64
	InMemory           bool // tmpfs and its like
}

// Limit is one bound on the memory of this process.
type Limit struct {
	Where string // "memory and swap", or the cgroup's path
	Max   int64  // bytes; 0 if only Free is known
	Used  int64
	Free  int64 // what may still be had, counting what the kernel can reclaim
}
