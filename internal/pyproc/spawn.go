package pyproc

import (
	"crypto/rand"
	_ "embed"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/sharedmem/shm/internal/pickle"
)

//go:embed worker.py
var helper string

// module is how the helper is called inside of the child, in pickles too.
const module = "_shm_worker"

// The child's descriptors.
const (
	spawnFD   = 3 // the pipe of spawn_main, and its parent's sentinel
	jobsFD    = 4 // the socket
	cancelFD  = 5 // a pipe: which jobs are cancelled
	trackerFD = 6
)

// bootstrap is the program of python -c. It says first which Python it is, as
// old ones have no spawn_main of this kind.
var bootstrap = fmt.Sprintf(`import os, struct, sys
v = ("%%d.%%d.%%d" %% sys.version_info[:3]).encode()
os.write(%d, struct.pack(">i", len(v)) + v)
if sys.version_info >= (3, 8):
    from multiprocessing.spawn import spawn_main
    spawn_main(tracker_fd=%d, pipe_handle=%d)
`, jobsFD, trackerFD, spawnFD)

// install makes a module of the helper.
const install = `import sys, types
m = types.ModuleType(%q)
sys.modules[m.__name__] = m
exec(compile(source, m.__name__, "exec"), m.__dict__)
m.main(*args)
`

var counter atomic.Int64

// family returns the two pickles that a child of multiprocessing reads from its
// parent: what to prepare, and the Process that it is. This one runs the helper, which loads the script
// or is sent its text.
func family(script string, sent bool) ([]byte, error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	n := counter.Add(1)
	name := fmt.Sprintf("GoWorker-%d", n)
	auth := &pickle.Call{Func: pickle.Global{Module: "multiprocessing.process", Name: "AuthenticationString"}, Args: pickle.Tuple{key}}
	text, err := pickle.Marshal(pickle.Dict{
		{Key: "name", Value: name},
		{Key: "authkey", Value: key},
		{Key: "start_method", Value: "spawn"},
	}, nil)
	if err != nil {
		return nil, err
	}
	process, err := pickle.Marshal(&pickle.Call{
		Func: pickle.Global{Module: "multiprocessing.context", Name: "SpawnProcess"}, Args: pickle.Tuple{}, New: true,
		HasState: true, State: pickle.Dict{
			{Key: "_identity", Value: pickle.Tuple{n}},
			{Key: "_config", Value: pickle.Dict{{Key: "authkey", Value: auth}, {Key: "semprefix", Value: "/mp"}}},
			{Key: "_parent_pid", Value: os.Getpid()},
			{Key: "_parent_name", Value: "MainProcess"},
			{Key: "_popen", Value: nil},
			{Key: "_closed", Value: false},
			{Key: "_target", Value: pickle.Global{Module: "builtins", Name: "exec"}},
			{Key: "_args", Value: pickle.Tuple{fmt.Sprintf(install, module), pickle.Dict{
				{Key: "source", Value: helper},
				{Key: "args", Value: pickle.Tuple{script, sent, jobsFD, cancelFD, MaxMessage}},
			}}},
			{Key: "_kwargs", Value: pickle.Dict{}},
			{Key: "_name", Value: name},
		},
	}, nil)
	return append(text, process...), err
}
