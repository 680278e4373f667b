// Package topic has messages that some publish and any number of others read, in
// processes that come and go and may die at any instruction.
//
//	t, err := topic.Create("prices", &topic.Options{SlotSize: 64, Slots: 1024})
//	p, err := t.Publisher()
//	err = p.Publish([]byte("hello"))           // does not wait for anybody
//
// and in other processes
//
//	t, err := topic.Open("prices", nil)
//	s, err := t.Subscriber()
//	n, err := s.Receive(buf)                   // s.Missed() before it
//
// # What there is
//
// Each subscriber sees every message, in one order, or learns how many it missed. A
// topic has one publisher, or many, which costs each message two atomic operations.
// It keeps the last messages, as many as it has slots; a subscriber begins
// with the oldest of them, the newest, or what comes ([From]).
//
//	Publish, Receive         copy                     PublishContext, ReceiveContext
//	Reserve, Commit          write in place           TryPublish, TryReceive, TryReserve: do not wait
//	Lease, All               read in place
//	PublishBatch, ReceiveBatch  several at once
//	Of                       values of a type in place of bytes
//	Notify                   a file for poll loops
//	Latest                   a value as it is now, in place of events
//
// docs/format.md has the bytes.
//
// # Slow subscribers
//
// With the policy Overwrite publishers never wait, and subscribers cost them nothing but
// the traffic between caches. A subscriber that is overtaken goes on a quarter of
// the slots behind the oldest message, and [Subscriber.Missed] is the number of those in
// between. With Wait nothing is missed: publishers wait for the slowest subscriber. Its
// death, or Close, ends that. While it lives and does not receive, stopped by a
// debugger for example, it holds them up for as long: that is the contract.
//
// # Ends
//
// [Publisher.Close] and [Subscriber.Close] end one participant, [Topic.Close] all that
// this process has. When all publishers have closed, Receive returns io.EOF after the last
// message; when the last one died, ErrPeerGone. Neither is for ever: when another comes,
// things go on. Publishers do not need subscribers.
//
// # What death does
//
// A message that was not committed is lost with its publisher, and with it, with the policy
// Overwrite, the one that lay in its slot. Nothing else is: the next publisher
// goes on from there. Death is noticed by the kernel and told to all within a
// millisecond or so. A process that is stopped is not dead: in a topic for many
// publishers subscribers wait for the message that it is writing, until the others have
// come around once.
//
// All this holds between processes of one user, with one place for leases (a container
// with its own /dev/shm has its own: errors.ErrUnsupported).
//
// # Waiting
//
// A call that waits spins for as long as that was of use lately, and then sleeps
// ([Waiting] changes that). Who publishes wakes subscribers only if one sleeps. Of the
// goroutines of a process that sleep on one side of a topic, one occupies a thread.
//
// # Systems
//
// Linux has everything. Elsewhere Create and Open return errors.ErrUnsupported: no
// other system both reaches other processes and tells of their death.
package topic
