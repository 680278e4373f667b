// Package crash names the places between two steps at which a process may die,
// so that tests can kill one exactly there. Without the build tag shmcrash a
// Point is an empty function that the compiler removes.
package crash

// Points lists every point of the program, in the order in which a creating
// process passes them. A test kills a process at each and fails if one of them
// is never reached.
var Points = []string{
	"lease:locked",       // the lease file is locked but has no name
	"lease:published",    // it has its name, nothing is recorded in it
	"create:reserved",    // memory without a name
	"record:filled",      // the journal slot is written but not valid
	"record:valid",       // the journal names a block that does not exist
	"create:kept",        // the hidden second link exists, the name does not
	"create:published",   // the name exists
	"adopt:recorded",     // a block has been taken into the journal
	"disown:forgotten",   // and given up
	"unlink:unkept",      // the hidden second link is gone, the name is not
	"remove:parked",      // the name has been moved aside, to be removed
	"unlink:removed",     // the name is gone, the journal still has it
	"forget:freed",       // the slot is free
	"lease:unlinked",     // the empty lease has lost its name
	"keep:vanished",      // somebody took a kept name away, it is not back yet
	"sweep:locked",       // a dead lease is locked by its sweeper
	"sweep:removed",      // one of its blocks is removed
	"sweep:hidden",       // its hidden names are removed
	"sweep:unlinked",     // the dead lease has lost its name
	"cleaner:started",    // the clean-up process runs
	"cleaner:owner-gone", // it has seen its owner's death

	// A tracker for Pythons.
	"pytracker:started",    // it runs
	"pytracker:eof",        // the last process that shared it is gone
	"pytracker:removed",    // it has removed one of the names that were left
	"pytracker:registered", // a tracker of Python's has the block, our journal as well

	// A block on its way from its maker to a manager, and its end there.
	"manager:offered",  // its maker's journal offers the block
	"manager:recorded", // it is in the server's as well
	"manager:listed",   // the server has the name, and perhaps the block
	"manager:tracked",  // its maker knows that
	"manager:given",    // and has given the block up
	"manager:disowned", // the block is nobody's, as it is on its way to other servers
	"manager:adopting", // the server knows that
	"manager:removing", // it shuts down and is about to remove a block

	// Changing an item of a concurrent list.
	"set:owned",      // the item is this process's
	"set:half-spare", // the spare slot has the value, but not yet its format
	"set:spare",      // the spare slot is complete, the list's counts
	"set:counts",     // the spare slot counts, the list's is untouched
	"set:half",       // the list's slot has the value, but not its format
	"set:copied",     // the list's slot is complete, the spare one counts
	"set:done",       // the item still is this process's
	"set:dead-owner", // another process has died in one of these

	// Changing an item of another list, on the way that is not a single store.
	"store:begun",  // an item that becomes nil is so already, any other is untouched
	"store:value",  // its slot has the value, but not its format
	"store:format", // and its format, but not its code

	// Locks.
	"lock:taken",          // the word is this process's, its caller does not know
	"lock:waiting",        // the word says that somebody sleeps, and nobody does yet
	"lock:woken",          // woken, and the lock not taken
	"lock:taken-over",     // the word was a dead process's
	"unlock:begun",        // about to unlock
	"unlock:free",         // unlocked, nobody woken
	"unlock:woken",        // one has been woken
	"lock:mended",         // what the dead owner left is mended
	"rwlock:writing",      // no reader is left
	"rwlock:forgotten",    // a dead reader's slot is cleared
	"rwlock:draining",     // about to sleep until a reader leaves
	"rwlock:granting",     // about to let in who waits to read
	"rwlock:granted",      // one is let in and not woken
	"rwlock:slot",         // the process has a slot
	"rwlock:held",         // the slot is held, no look at the word since
	"rwlock:want",         // the slot says that it wants to be
	"rwlock:reader-woken", // woken, and not looked why
	"rwlock:retreated",    // the slot is not held any more, no writer woken
	"rwlock:freed",        // a dead writer's place is free, nobody woken
	"cond:signalled",      // counted, nobody woken
	"event:set",           // set, nobody woken
	"event:passed",        // passed, an automatic one is used
	"once:ready",          // done, and not said so
	"once:done",           // said so, nobody woken
	"sem:taken",           // a permit is taken
	"sem:waiting",         // the word says that somebody sleeps, and nobody does yet
	"sem:posted",          // a permit is there, nobody woken
	"barrier:complete",    // all have come, nobody woken
	"barrier:come",        // counted in, not asleep
	"barrier:broken",      // broken, nobody woken
	"barrier:reset",       // mended, nobody woken

	// The table of participants of rings and topics, and their sleep.
	"party:locked",     // the table is this process's
	"party:relocked",   // it was a dead process's
	"party:unlocking",  // and is about to be free
	"party:joining",    // a place has an owner, and is still free
	"party:joined",     // it is taken, and not counted
	"party:leaving",    // it is being given up, and still counted
	"party:left",       // it is free, nobody told
	"party:recovering", // its owner is dead
	"party:recovered",  // what it left is in order, but its place is still taken
	"party:buried",     // the place is free
	"party:waiting",    // the word says that somebody sleeps, and nobody does yet
	"party:waking",     // it does not any more, and nobody is woken yet
	"party:woken",      // woken, and not looked why

	// Rings: what the dead left.
	"ring:voided",     // a slot that a dead sender was writing is void
	"ring:given-back", // a message that a dead receiver was reading is another's
	"ring:discarded",  // or is dropped; in a ring of words not counted
	"ring:tallied",    // what a counter has to be is written down, and nothing done
	"ring:counted",    // the counter is that, and the messages are where they were
	// Sending and receiving.
	"ring:claimed",   // a slot is this process's, nothing is in it
	"ring:reserved",  // and its user writes to it
	"ring:written",   // the message is in it
	"ring:committed", // anybody can take it, nobody is woken
	"ring:hinted",    // the tail hint is moved
	"ring:aborted",   // a slot was given back unused
	"ring:passed",    // and passed over
	"ring:taken",     // a message is this process's
	"ring:copied",    // it is read
	"ring:freeing",   // its slots are free but for the first
	"ring:freed",     // all are, nobody is woken

	// Topics.
	"topic:claimed",   // a slot is this process's, nothing is in it
	"topic:blocked",   // it is nobody's, as somebody still writes there
	"topic:reserved",  // its user writes to it
	"topic:written",   // the message is in it
	"topic:published", // anybody can read it, nobody is woken
	"topic:unblocked", // who was overtaken has left the slot
	"topic:aborted",   // a slot was given up unused
	"topic:voided",    // a slot that a dead publisher was writing is void
	"topic:copied",    // a message is read, and may be overwritten
	"topic:moved",     // done with it, and nobody is woken

	// A worker and its jobs.
	"worker:started",  // it could take jobs, and has not said so
	"worker:waiting",  // the word says that it sleeps, and it does not yet
	"worker:begun",    // a job is the worker's, and not looked at
	"worker:returned", // the function has, nothing is stored of it
	"worker:offered",  // its journal offers the blocks of a result
	"worker:written",  // the result is in its slot, which does not say so
	"worker:done",     // it does, and nobody is told
	"worker:waking",   // the bell's word says that nobody sleeps, and nobody is woken yet

	// The parent of a worker in Go.
	"pool:started",  // the process is there, and has not been spoken to
	"pool:greeted",  // it has its first message
	"pool:ready",    // it has said that it takes jobs
	"pool:put",      // a job is in its slot, which does not say so
	"pool:queued",   // it does, and nobody is woken
	"pool:came",     // a result is here, whose blocks are the worker's still
	"pool:taken",    // they are ours, and the worker does not know
	"pool:told",     // it does, and nobody has the result
	"pool:stopping", // there are no more jobs, and the worker does not know

	// The parent of a Python.
	"pyproc:started", // the child has nothing to do yet
	"pyproc:ready",   // it has loaded its script
	"pyproc:came",    // a result is here, whose blocks are the child's still
	"pyproc:taken",   // they are ours, and the child does not know
}
