// One of two processes that send messages of 64 bytes by what Boost has for that:
//
//	peer first|second echo|copy NAME FOLDER queue|spsc
//
// queue is Boost.Interprocess's message_queue, whose users sleep; spsc is
// boost::lockfree::spsc_queue in shared memory, where they can only spin. For every
// line with a number the first sends so many, and the second, which says "ready" before,
// receives them, or sends each back. Both say "done". The first begins, and removes
// what they used. Nothing is put into FOLDER.
#include <boost/interprocess/ipc/message_queue.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <boost/interprocess/shared_memory_object.hpp>
#include <boost/lockfree/spsc_queue.hpp>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <string>

namespace ipc = boost::interprocess;

struct Message {
	char bytes[64];
};

constexpr size_t slots = 1024;

struct Sleeping {
	ipc::message_queue queue;

	Sleeping(const std::string &name, bool) : queue(ipc::open_or_create, name.c_str(), slots, sizeof(Message)) {}
	void send(const Message &m) { queue.send(&m, sizeof m, 0); }
	void receive(Message &m) {
		size_t n;
		unsigned priority;
		queue.receive(&m, sizeof m, n, priority);
	}
};

struct Spinning {
	using Queue = boost::lockfree::spsc_queue<Message, boost::lockfree::capacity<slots>>;
	ipc::shared_memory_object object;
	ipc::mapped_region region;
	Queue *queue;

	Spinning(const std::string &name, bool first) : object(ipc::open_or_create, name.c_str(), ipc::read_write) {
		if (first)
			object.truncate(sizeof(Queue));
		region = ipc::mapped_region(object, ipc::read_write);
		queue = static_cast<Queue *>(region.get_address());
		if (first)
			new (queue) Queue;
	}
	static void relax() {
#ifdef __x86_64__
		__builtin_ia32_pause();
#endif
	}
	void send(const Message &m) {
		while (!queue->push(m))
			relax();
	}
	void receive(Message &m) {
		while (!queue->pop(m))
			relax();
	}
};

template <class Queue> void run(bool first, bool echo, const std::string &name) {
	Queue there(name + "-there", first), back(name + "-back", first);
	Message m{};
	for (long n; std::scanf("%ld", &n) == 1;) {
		if (!first)
			std::puts("ready"), std::fflush(stdout);
		for (; n > 0; n--) {
			if (first)
				there.send(m);
			else
				there.receive(m);
			if (echo && first)
				back.receive(m);
			else if (echo)
				back.send(m);
		}
		std::puts("done"), std::fflush(stdout);
	}
	if (first)
		for (const char *end : {"-there", "-back"})
			ipc::shared_memory_object::remove((name + end).c_str());
}

int main(int argc, char **argv) try {
	if (argc != 6)
		return 2;
	bool first = !std::strcmp(argv[1], "first"), echo = !std::strcmp(argv[2], "echo");
	if (!std::strcmp(argv[5], "queue"))
		run<Sleeping>(first, echo, argv[3]);
	else
		run<Spinning>(first, echo, argv[3]);
	return 0;
} catch (const std::exception &e) {
	std::fprintf(stderr, "%s\n", e.what());
	return 1;
}
