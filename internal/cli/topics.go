package cli

import "github.com/spf13/cobra"

func init() { verbs = append(verbs, newJSONTopic) }

// newJSONTopic is no verb but a page of help: what programs can rely on.
func newJSONTopic(*app) *cobra.Command {
	return &cobra.Command{
		Use:   "json",
		Short: "The documents that --json writes",
		Long: `With --json a command writes one JSON document to standard output, unless it
failed as a whole; errors are text on standard error, and the exit status is the
same as without. Fields may be added, but not renamed or removed. Sizes are
bytes, times RFC 3339, absent fields are unknown. (demo writes its report, whose
fields may change.)

A block ("B" below):
  name, path, dir           dir is absent for the system's own place
  size, resident            resident is what occupies memory now
  mode                      "0600"
  uid                       -1 if the system does not say
  created
  lifetime                  "owned", "tracked" or "persistent"
  keep_name                 its owner restores the name
  foreign                   no program of this module made it, as far as one sees
  owner                     {pid, alive, lease}; no pid: nobody owns it
  kind                      what it holds: "list", "npy", "text", …; info only
  list                      L without items, if it is one; info only
  array                     A, if it holds a .npy file; info only
  array_error               why there is no array, or no summary of it; info only
  ring                      R, if it is one; info only
  topic                     T, likewise
  locks                     [K], those of package lock; info only
  device, inode
  holders                   [H]; info and ls -l only
A holder ("H"):
  pid, name, uid
  mapped                    bytes of its address space
  open                      number of descriptors

A list ("L"):
  count
  layout                    "3.9" (and later) or "3.8": of which Python
  exact, concurrent         what it was made with
  items                     [I]
An item ("I"):
  index
  type                      "int", "float", "bool", "text", "bytes" or "nil"
  value                     the same in JSON: ints are exact, also beyond 2**53;
                            bytes are base64; the floats that JSON lacks are
                            "nan", "inf" and "-inf"; nil is null
  format                    as Python stores it
  error                     why there is no type and value

An array ("A"):
  dtype, item_size, shape
  order, offset, version    "C" or "F"; where the elements begin; of the .npy file
  bytes_behind              what follows the elements
  summary                   [S], one, or one for each of at most 8 fields; absent if
                            not looked at
A summary ("S"):
  field, dtype, count       field only of structures
  min, max, mean            as array writes values; of complex numbers only mean
  nan, nat, true, longest   how many, and of text and bytes the length; by type

A lock ("K"):
  offset, kind              "Mutex", "RWMutex", "Semaphore", …
  state                     in words: "free", "held", "owner died", "3 permits", …
  count, parties            permits, or who has come to a barrier, and of how many
  holders                   [{pid, alive, lease}]; no pid: it cannot be told
  waiting                   somebody waits, or did a moment ago
  elsewhere                 its users have their leases in another place

A ring ("R"):
  slot_size, slots          bytes of a message in a slot; how many
  max_message, most_participants
  one_sender, one_receiver, discard
  sent, received, lost, redelivered, waits, high_water
  pending                   slots in use; senders, receivers: how many
  participants              [{role: "sender" or "receiver", owner: {pid, alive, lease}}]
  elsewhere                 as of a lock
A topic ("T"):
  slot_size, slots, most_participants
  policy                    "overwrite" or "wait"
  many_publishers
  published, received, missed, waits, high_water
  kept                      messages; publishers, subscribers: how many
  participants              [{role: "publisher" or "subscriber", owner, behind}]
  elsewhere                 as of a lock
A message ("M"), one on each line:
  text or base64            base64 if it is not UTF-8
  redelivered, taken        a dead receiver had it; a receiver has it
  position                  where it lies, of a topic its number; not in ring sub
  missed                    how many were overwritten before it

create, put    B
put --npz      {blocks: [B]}
array          {name, dtype, item_size, shape, values: nested lists}; complex numbers
               are [real, imaginary], structures objects, times text, spans
               numbers, NaT null, bytes text or {base64}, and floats as in I
describe       {dtype, item_size, c, ctypes, numpy, go or go_error}
list           L and name, dir
list N INDEX   I; with VALUE, as it is afterwards
list --verify  L without items, and name, dir, ok, errors: [text]
list --create  B
ls             {dir, blocks: [B], refused_processes}
info           {blocks: [B], refused_processes}
info --python  {python}
rm             {removed: [name], failed: [text]}
prune          {dry_run, blocks: [B and removed, why]}
df             {dir, file_system, size, free, inodes, free_inodes,
                used: {all, block_count, blocks, other_count, others,
                       held_count, held, unexplained},
                held, memfds, shared: [{name, size, resident, guess, holders: [H]}],
                machine: {all, here, memfds, sysv, shared, mounts, unexplained},
                sysv: [{id, size, resident, creator, attached, uid}],
                mounts: [{point, used, size}],
                limits: [{where, max, used, free}],
                refused_processes, partial}
serve          a line when it is ready, {address, authkey_file or authkey_env, dir,
               metrics, pid, python}, and one at its end, {removed: count,
               missing: [name]}
manager        ls: {address, blocks: [{name, size}]}, no size: not on this machine;
               create: B; track: {tracked: [name], failed: [text]}; release:
               {released: [name], failed: [text]}; shutdown: {address, ended, missing}
ring           create: B; ls: {dir, rings: [R and name, dir]}; stat: {rings: [R and
               name, dir]}, with --follow R on each line; tail, sub: lines of M;
               pub: {sent: count}
topic          create, ls, stat, tail, sub, pub: as ring, with T and topics in place
               of R and rings; latest: M
doctor         {ok, findings: [{check, level: "ok", "note" or "todo", text, remedy}]}
version        {version, go, system, revision, time, modified}

refused_processes counts those that could not be looked into: their part of the
holders is missing. Exit status: 0 done; 1 something failed, or doctor found
something to do; 2 the command line makes no sense; 130 interrupted.`,
	}
}
