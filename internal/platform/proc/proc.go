// Package proc knows processes: which one this is, whether a PID still means
// the process it meant, and which processes hold which shared memory. It takes
// plain values and knows nothing of blocks or owners.
//
// Everything it says of other processes is a snapshot: by the time it is read
// they may have gone. A PID alone never identifies a process, since the system
// uses it again; PID and start time together do, inside one PID namespace.
//
//	t, err := proc.StartTime(pid)    // remember both
//	…
//	now, err := proc.StartTime(pid)  // the same process if now == t
//
// Linux has all of it. Elsewhere functions return an error that wraps
// [errors.ErrUnsupported], and PIDNamespace returns 0.
package proc

import (
	"bytes"
	"errors"
	"strconv"
)

// startTimeField is where the start time stands in /proc/PID/stat, counted
// from the field that follows the command's name: field 22 of proc(5), which
// counts from one and has PID and name first.
const startTimeField = 22 - 3

var errStat = errors.New("proc: /proc/PID/stat does not look as it should")

// parseStartTime reads the start time from the text of /proc/PID/stat. The
// command's name stands there in parentheses and unescaped, and a process may
// choose it, spaces, parentheses and newlines included: only what follows the
// last closing parenthesis can be trusted to be fields.
func parseStartTime(stat []byte) (uint64, error) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, errStat
	}
	fields := bytes.Fields(stat[i+1:])
	if len(fields) <= startTimeField {
		return 0, errStat
	}
	t, err := strconv.ParseUint(string(fields[startTimeField]), 10, 64)
	if err != nil {
		return 0, errStat
	}
	return t, nil
}
