// The floor: what a plain C program pays for the same named memory.
//
// It reads "VERB PATH SIZE N" from standard input, does VERB N times, and
// answers with the nanoseconds all N took together, or with "error: …". One
// process serves the whole run, so that its rounds can take turns with those
// of the others.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
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

// What lies in the memory of the verbs about locks.
struct locks {
	pthread_mutex_t mutex;
	sem_t sem;
	_Alignas(64) atomic_int ping;
	_Alignas(64) atomic_int pong;
	_Alignas(64) long count;
	long long killed;
};

static struct locks *locks(const char *path, size_t size) {
	int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, size) < 0)
		return NULL;
	struct locks *l = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	unlink(path);
	if (l == MAP_FAILED)
		return NULL;
	pthread_mutexattr_t a;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	if ((errno = pthread_mutex_init(&l->mutex, &a)) != 0 || sem_init(&l->sem, 1, 1) < 0)
		return NULL;
	return l;
}

static void add(struct locks *l, long n) {
	for (long i = 0; i < n; i++) {
		pthread_mutex_lock(&l->mutex);
		l->count++;
		pthread_mutex_unlock(&l->mutex);
	}
}

// give and take are a futex and nothing else.
static void give(atomic_int *yours) {
	atomic_store(yours, 1);
	syscall(SYS_futex, yours, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void take(atomic_int *mine) {
	while (atomic_exchange(mine, 0) == 0)
		syscall(SYS_futex, mine, FUTEX_WAIT, 0, NULL, NULL, 0);
}

// together runs both in two processes and waits for the other.
static int together(struct locks *l, long n, void (*parent)(struct locks *, long), void (*child)(struct locks *, long), long m) {
	pid_t pid = fork();
	if (pid < 0)
		return -1;
	if (pid == 0) {
		child(l, m);
		_exit(0);
	}
	parent(l, n);
	return waitpid(pid, NULL, 0) == pid ? 0 : -1;
}

static void pinger(struct locks *l, long n) {
	for (long i = 0; i < n; i++) {
		give(&l->ping);
		take(&l->pong);
	}
}

static void ponger(struct locks *l, long n) {
	for (long i = 0; i < n; i++) {
		take(&l->ping);
		give(&l->pong);
	}
}

// recover returns how long after its owner's death a process that waits has the
// lock. A third process kills, so that this one can wait.
static long long recover(struct locks *l) {
	int ready[2];
	char c;
	if (pipe(ready) < 0)
		return -1;
	pid_t owner = fork();
	if (owner == 0) {
		pthread_mutex_lock(&l->mutex);
		if (write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	if (owner < 0 || read(ready[0], &c, 1) != 1)
		return -1;
	pid_t killer = fork();
	if (killer == 0) {
		struct timespec t = {0, 2000000};
		nanosleep(&t, NULL);
		l->killed = now();
		kill(owner, SIGKILL);
		_exit(0);
	}
	int r = pthread_mutex_lock(&l->mutex);
	long long at = now();
	close(ready[0]);
	close(ready[1]);
	waitpid(owner, NULL, 0);
	waitpid(killer, NULL, 0);
	if (r != EOWNERDEAD) {
		errno = r;
		return -1;
	}
	pthread_mutex_consistent(&l->mutex);
	pthread_mutex_unlock(&l->mutex);
	return at - l->killed;
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
		} else if (!strcmp(verb, "mutex") || !strcmp(verb, "sem") || !strcmp(verb, "contend") || !strcmp(verb, "pingpong") || !strcmp(verb, "recover")) {
			struct locks *l = locks(path, size);
			if ((bad = l == NULL) == 0) {
				start = now();
				if (!strcmp(verb, "mutex")) {
					add(l, n);
				} else if (!strcmp(verb, "sem")) {
					for (long i = 0; i < n; i++) {
						sem_wait(&l->sem);
						sem_post(&l->sem);
					}
				} else if (!strcmp(verb, "contend")) {
					bad = together(l, n - n / 2, add, add, n / 2);
				} else if (!strcmp(verb, "pingpong")) {
					bad = together(l, n, pinger, ponger, n);
				}
				took = now() - start;
				if (!strcmp(verb, "recover")) {
					took = 0;
					for (long i = 0; i < n && !bad; i++) {
						long long t = recover(l);
						bad = t < 0;
						took += t;
					}
				}
				munmap(l, size);
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
