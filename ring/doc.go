// Package ring has bounded queues of messages between processes, any of which may
// die at any instruction.
//
//	q, err := ring.Create("jobs", &ring.Options{SlotSize: 200, Slots: 1024})
//	s, err := q.Sender()
//	err = s.Send([]byte("hello"))              // waits while the ring is full
//
// and in another process
//
//	q, err := ring.Open("jobs", nil)
//	r, err := q.Receiver()
//	for p, err := range r.All() {              // p lies in shared memory
//		…
//	}
//
// # What there is
//
// A ring has many senders and many receivers, or one on either side, which is faster:
// [Options] says so when it is made. Each message goes to one receiver, in the order in
// which the messages' places were claimed.
//
//	Send, Receive          copy                         SendContext, ReceiveContext
//	Reserve, Commit        write in place               TrySend, TryReceive, TryReserve: do not wait
//	Lease, All             read in place
//	SendBatch, ReceiveBatch  several at once
//	Of                     values of a type in place of bytes
//	Notify                 a file for poll loops
//	Describe, Peek         look from outside; shm ring ls, stat and tail show it
//
// A message has up to MaxMessage bytes; if that is more than SlotSize, a long
// one takes several slots. docs/format.md has the bytes.
//
// # Ends
//
// [Sender.Close] and [Receiver.Close] end one participant, [Queue.Close] all that this
// process has. When all senders have closed, Receive returns io.EOF after the last
// message; when the last one died, ErrPeerGone. A ring without receivers takes
// messages until it is full; then, if there have been some, Send returns io.ErrClosedPipe
// or ErrPeerGone. None of these is for ever: when somebody new comes, things go on. When
// everybody has gone the ring keeps what was committed, as long as its block exists.
//
// # What death does
//
// A message that was not committed is lost with its sender, and nothing else. A
// message that a dead receiver had taken is given to another, with
// [Receiver.Redelivered] true, or dropped, as [AfterDeath] says. Death is noticed by
// the kernel and told to all within a millisecond or so. A process that is stopped is
// not dead: in a ring for many senders the others' messages wait behind the one that it
// is writing.
//
// All this holds between processes of one user, with one place for leases (a container
// with its own /dev/shm has its own: errors.ErrUnsupported).
//
// # Waiting
//
// A call that waits spins for as long as that was of use lately, and then sleeps
// ([Waiting] changes that). Who sends wakes a receiver only if it sleeps. Of the
// goroutines of a process that sleep on one side of a ring, one occupies a thread.
//
// # Systems
//
// Linux has everything. Elsewhere Create and Open return errors.ErrUnsupported: no
// other system both reaches other processes and tells of their death.
package ring
