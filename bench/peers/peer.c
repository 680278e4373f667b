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
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
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

// pin keeps the caller on one of the processors that it may use; -1 is any.
static void pin(int which) {
	static cpu_set_t all;
	static int known;
	if (!known)
		known = !sched_getaffinity(0, sizeof all, &all);
	cpu_set_t one = all;
	int n = 0;
	for (int i = 0; which >= 0 && i < CPU_SETSIZE; i++)
		if (CPU_ISSET(i, &all) && n++ == which % CPU_COUNT(&all)) {
			CPU_ZERO(&one);
			CPU_SET(i, &one);
		}
	sched_setaffinity(0, sizeof one, &one);
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

// The same, each kept to a processor of its own. Else it is the kernel's choice whether
// they are, and that is most of what a wake costs.
static void pinger_apart(struct locks *l, long n) {
	pin(0);
	pinger(l, n);
	pin(-1);
}

static void ponger_apart(struct locks *l, long n) {
	pin(1);
	ponger(l, n);
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

// A ring for one sender and one receiver as good C programs have it: indices on lines of
// their own, each side with a copy of the other's, stores that release. Nothing in it
// survives a death, and nobody sleeps.
struct ring {
	_Alignas(64) atomic_ulong tail;
	_Alignas(64) atomic_ulong head;
	size_t size, slots, stride;
	_Alignas(64) char data[];
};

struct end {
	struct ring *r;
	unsigned long pos, other;
	char *buf;
};

static inline void relax(void) {
#ifdef __x86_64__
	__builtin_ia32_pause();
#endif
}

static char *slot(struct ring *r, unsigned long pos) { return r->data + (pos & (r->slots - 1)) * r->stride; }

// room waits until batch slots are free, entries until one is full, and returns how many are.
static void room(struct end *e, unsigned long batch) {
	while (e->pos + batch - e->other > e->r->slots) {
		e->other = atomic_load_explicit(&e->r->head, memory_order_acquire);
		if (e->pos + batch - e->other > e->r->slots)
			relax();
	}
}

static unsigned long entries(struct end *e) {
	while (e->other == e->pos) {
		e->other = atomic_load_explicit(&e->r->tail, memory_order_acquire);
		if (e->other == e->pos)
			relax();
	}
	return e->other - e->pos;
}

static void ring_send(struct end *e) {
	room(e, 1);
	memcpy(slot(e->r, e->pos), e->buf, e->r->size);
	atomic_store_explicit(&e->r->tail, ++e->pos, memory_order_release);
}

static void ring_receive(struct end *e) {
	entries(e);
	memcpy(e->buf, slot(e->r, e->pos), e->r->size);
	atomic_store_explicit(&e->r->head, ++e->pos, memory_order_release);
}

// rings makes two of them in memory without a name.
static struct ring *rings(size_t size, struct ring **back) {
	size_t stride = (size + 63) & ~(size_t)63, slots = 1024;
	while (slots > 4 && slots * stride > 1 << 22)
		slots /= 2;
	size_t one = (sizeof(struct ring) + slots * stride + 4095) & ~(size_t)4095;
	char *p = mmap(NULL, 2 * one, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	for (int i = 0; i < 2; i++) {
		struct ring *r = (struct ring *)(p + i * one);
		r->size = size, r->slots = slots, r->stride = stride;
	}
	*back = (struct ring *)(p + one);
	return (struct ring *)p;
}

// ring does n messages one way, or there and back, and returns what they took. batch is
// how many are shown at once.
static long long ring(const char *how, size_t size, long n, unsigned long batch) {
	struct ring *back, *there = rings(size, &back);
	int start[2], echo = !strcmp(how, "ring-echo");
	char *buf = aligned_alloc(64, (size + 63) & ~(size_t)63), c;
	if (there == NULL || buf == NULL || pipe(start) < 0)
		return -1;
	memset(buf, 1, size);
	struct end a = {there, 0, 0, buf}, b = {back, 0, 0, buf};
	pid_t pid = fork();
	if (pid < 0)
		return -1;
	// Both spin: on one processor each would wait for the other's time to be over.
	pin(pid != 0);
	if (pid == 0) {
		if (write(start[1], "x", 1) != 1)
			_exit(1);
		for (long i = 0; i < n;) {
			if (batch == 1) {
				ring_receive(&a);
				if (echo)
					ring_send(&b);
				i++;
				continue;
			}
			unsigned long k = entries(&a);
			for (unsigned long j = 0; j < k; j++)
				memcpy(buf, slot(there, a.pos + j), size);
			a.pos += k, i += k;
			atomic_store_explicit(&there->head, a.pos, memory_order_release);
		}
		_exit(0);
	}
	if (read(start[0], &c, 1) != 1)
		return -1;
	long long from = now();
	for (long i = 0; i < n; i += batch) {
		if (batch == 1) {
			ring_send(&a);
			if (echo)
				ring_receive(&b);
			continue;
		}
		unsigned long k = n - i < (long)batch ? (unsigned long)(n - i) : batch;
		room(&a, k);
		for (unsigned long j = 0; j < k; j++)
			memcpy(slot(there, a.pos + j), buf, size);
		a.pos += k;
		atomic_store_explicit(&there->tail, a.pos, memory_order_release);
	}
	waitpid(pid, NULL, 0);
	long long took = now() - from;
	pin(-1);
	close(start[0]), close(start[1]);
	free(buf);
	size_t one = (char *)back - (char *)there;
	munmap(there, 2 * one);
	return took;
}

// whole reads or writes all of a message.
static int whole(ssize_t (*call)(), int fd, char *p, size_t n) {
	while (n > 0) {
		ssize_t k = call(fd, p, n);
		if (k <= 0)
			return -1;
		p += k, n -= k;
	}
	return 0;
}

// stream does the same by a pipe or a Unix socket.
static long long stream(const char *how, size_t size, long n) {
	int there[2], back[2], echo = strstr(how, "echo") != NULL;
	char *buf = calloc(1, size);
	if (!strncmp(how, "pipe", 4)) {
		if (pipe(there) < 0 || pipe(back) < 0)
			return -1;
	} else {
		int s[2];
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, s) < 0)
			return -1;
		there[1] = s[0], there[0] = s[1];
		back[0] = dup(s[0]), back[1] = dup(s[1]);
	}
	pid_t pid = fork();
	if (pid < 0)
		return -1;
	if (pid == 0) {
		for (long i = 0; i < n; i++)
			if (whole(read, there[0], buf, size) || (echo && whole((ssize_t(*)())write, back[1], buf, size)))
				_exit(1);
		_exit(0);
	}
	long long from = now();
	int bad = 0;
	for (long i = 0; i < n && !bad; i++)
		bad = whole((ssize_t(*)())write, there[1], buf, size) || (echo && whole(read, back[0], buf, size));
	waitpid(pid, NULL, 0);
	long long took = bad ? -1 : now() - from;
	close(there[0]), close(there[1]), close(back[0]), close(back[1]);
	free(buf);
	return took;
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
		} else if (!strcmp(verb, "mutex") || !strcmp(verb, "sem") || !strcmp(verb, "contend") || !strncmp(verb, "pingpong", 8) || !strcmp(verb, "recover")) {
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
				} else if (!strcmp(verb, "pingpong-apart")) {
					bad = together(l, n, pinger_apart, ponger_apart, n);
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
		} else if (!strcmp(verb, "ring-echo") || !strcmp(verb, "ring-copy") || !strcmp(verb, "ring-batch")) {
			took = ring(verb, size, n, !strcmp(verb, "ring-batch") ? 64 : 1);
			bad = took < 0;
		} else if (!strncmp(verb, "pipe-", 5) || !strncmp(verb, "unix-", 5)) {
			took = stream(verb, size, n);
			bad = took < 0;
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
