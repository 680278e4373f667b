package manager_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/manager"
)

func Example() {
	ctx := context.Background()
	m, err := manager.Start(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}

	// Another process, in Go or in Python, has been told address and key.
	client, err := manager.Connect(ctx, m.Address(), m.AuthKey())
	if err != nil {
		log.Fatal(err)
	}
	b, err := client.Create(ctx, 1024)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	l, err := client.CreateList(ctx, []any{"camera 0", 42, nil})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	names, err := m.Blocks(ctx)
	fmt.Println(names[0] == b.Name(), names[1] == l.Ref().Name, err)
	fmt.Println(m.Shutdown(ctx))
	// Output:
	// true true <nil>
	// <nil>
}

// Track is for blocks and lists with names or options of their own. This list
// is one that CPython 3.8 can read, too.
func ExampleManager_Track() {
	ctx := context.Background()
	m, err := manager.Start(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Shutdown(ctx)

	l, err := list.Create("", []any{1, "x"}, &list.Options{Layout: list.Python38})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	if err := m.Track(ctx, l.Block()); err != nil {
		l.Unlink()
		log.Fatal(err)
	}
	names, err := m.Blocks(ctx)
	fmt.Println(len(names), names[0] == l.Ref().Name, err)
	// Output: 1 true <nil>
}

// A service: it serves until its context ends, which signal.NotifyContext can
// see to.
func ExampleServe() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	err := manager.Serve(ctx, nil, func(m *manager.Manager) {
		b, err := m.Create(ctx, 100)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("made a block:", b.Size() >= 100, b.Close())
		stop()
	})
	fmt.Println("served:", err)
	// Output:
	// made a block: true <nil>
	// served: <nil>
}

// Here MD5 will not do, which means CPython 3.12 or later, and two blocks must.
func ExampleOptions() {
	ctx := context.Background()
	m, err := manager.Start(ctx, &manager.Options{
		Conn:      conn.Options{Digests: []conn.Digest{conn.SHA256}},
		MaxBlocks: 2,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer m.Shutdown(ctx)

	_, err = manager.Connect(ctx, m.Address(), []byte("a guess"))
	fmt.Println(errors.Is(err, conn.ErrAuth))
	for range 3 {
		b, err := m.Create(ctx, 10)
		if err == nil {
			defer b.Close()
		}
		fmt.Println(err)
	}
	// Output:
	// true
	// <nil>
	// <nil>
	// manager: track_segment: the manager's server answers: MemoryError: the manager tracks 2 blocks, which is its limit
}

// What went wrong in the server is not what went wrong on the way there.
func ExampleRemoteError() {
	ctx := context.Background()
	m, err := manager.Start(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Shutdown(ctx)

	err = m.Release(ctx, "nobody's")
	var remote *manager.RemoteError
	if errors.As(err, &remote) {
		fmt.Println(remote.Kind, remote.Text)
	}
	// Output: #TRACEBACK ValueError: "nobody's" is not tracked
}

func ExampleStats() {
	ctx := context.Background()
	m, err := manager.Start(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Shutdown(ctx)
	b, err := m.Create(ctx, 4096)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()

	s, ok := m.Stats()
	fmt.Println(ok, s.Blocks, s.Bytes >= 4096, s.Requests["track_segment"], s.Refused)
	// Output: true 1 true 1 0
}

// A block stays when the process that has made it is gone, since the manager
// owns it; here the maker only lets go of it.
func ExampleManager_Create() {
	ctx := context.Background()
	m, err := manager.Start(ctx, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Shutdown(ctx)
	b, err := m.Create(ctx, 100)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	copy(b.Bytes(), "for others")

	// In Python this is SharedMemory(name, track=False).
	peer, err := shm.Open(b.Name(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	fmt.Println(strings.TrimRight(string(peer.Bytes()[:20]), "\x00"))
	// Output: for others
}
