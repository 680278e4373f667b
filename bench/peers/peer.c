// The floor: what a plain C program pays for the same named memory.
//
// It reads "VERB PATH SIZE N" from standard input, does VERB N times, and
// answers with the nanoseconds all N took together, or with "error: …". One
// process serves the whole run, so that its rounds can take turns with those
// of the others.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static long long now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

// create is the six calls and nothing else: no reservation, no record of who
// owns the memory, and for a moment the name shows an empty file.
static int create(const char *path, size_t size) {
	int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, size) < 0)
		return -1;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -1;
	return munmap(p, size) | close(fd) | unlink(path);
}

// reserve is create with the memory really there, which is the part of our
// extra work that the kernel does.
static int reserve(const char *path, size_t size) {
	int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	if (fallocate(fd, 0, 0, size) < 0)
		return -1;
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -1;
	return munmap(p, size) | close(fd) | unlink(path);
}

// attach leaves the mapping in *p and its length in *size.
static int attach(const char *path, int flags, void **p, size_t *size) {
	struct stat st;
	int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	*size = st.st_size;
	*p = mmap(NULL, *size, PROT_READ | PROT_WRITE, MAP_SHARED | flags, fd, 0);
	if (*p == MAP_FAILED)
		return -1;
	return close(fd);
}

int main(void) {
	char line[4096], verb[32], path[2048];
	size_t size;
	long n;
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "%31s %2047s %zu %ld", verb, path, &size, &n) != 4) {
			printf("error: not understood: %s", line);
			fflush(stdout);
			continue;
		}
		int bad = 0;
		long long took = 0, start = now();
		void *p;
		if (!strcmp(verb, "create")) {
			for (long i = 0; i < n && !bad; i++)
				bad = create(path, size);
			took = now() - start;
		} else if (!strcmp(verb, "reserve")) {
			for (long i = 0; i < n && !bad; i++)
				bad = reserve(path, size);
			took = now() - start;
		} else if (!strcmp(verb, "attach")) {
			for (long i = 0; i < n && !bad; i++)
				bad = attach(path, 0, &p, &size) || munmap(p, size);
			took = now() - start;
		} else if (!strcmp(verb, "populate")) {
			// Only until the memory is there: taking a large mapping down
			// again costs the same whoever made it, and would hide the ratio.
			for (long i = 0; i < n && !bad; i++) {
				start = now();
				bad = attach(path, MAP_POPULATE, &p, &size);
				took += now() - start;
				bad = bad || munmap(p, size);
			}
		} else {
			printf("error: unknown verb %s\n", verb);
			fflush(stdout);
			continue;
		}
		if (bad)
			printf("error: %s %s: %s\n", verb, path, strerror(errno));
		else
			printf("%lld\n", took);
		fflush(stdout);
	}
	return 0;
}
