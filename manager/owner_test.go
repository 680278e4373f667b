//go:build linux

package manager_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/manager"
)

// Who owns what when processes are killed. The blocks are in directories of
// the tests' own: elsewhere other test programs may sweep before they do.

func init() {
	// client ADDRESS KEY DIR WAY creates a block and says its name, over a connection
	// that has served before, or a fresh one, or as if the server were Python's.
	shmtest.Register("client", func(args []string) int {
		m, err := helperConnect(args)
		if err == nil {
			switch args[3] {
			case fresh:
				err = m.Close()
			case plain:
				manager.Plain()
			}
		}
		if err == nil {
			var b *shm.Block
			if b, err = m.Create(context.Background(), 100); err == nil {
				shmtest.Say("%s", b.Name())
				shmtest.Hear()
			}
		}
		if err != nil {
			shmtest.Say("%v", err)
		}
		return 0
	})
	// stepwise does what Create does, a step at a time.
	shmtest.Register("stepwise", func(args []string) int {
		key, _ := hex.DecodeString(args[1])
		b, err := shm.Create("", 100, &shm.CreateOptions{Dir: args[2]})
		var c *conn.Conn
		if err == nil {
			shmtest.Say("%s", b.Name())
			shmtest.Await("track")
			c, err = conn.Dial(context.Background(), args[0], key, nil)
		}
		if err == nil {
			if err = c.Send(conn.Tuple{nil, "track_segment", conn.Tuple{b.Name()}, conn.Dict{}}); err == nil {
				_, err = c.Recv()
			}
		}
		if err == nil {
			shmtest.Say("tracked")
			shmtest.Await("disown")
			err = b.Disown()
		}
		if err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("disowned")
		shmtest.Hear()
		return 0
	})
	// server DIR ADDRESS serves, and says where and its key.
	shmtest.Register("server", func(args []string) int {
		err := manager.Serve(context.Background(), &manager.Options{Dir: args[0], Address: args[1]}, func(m *manager.Manager) {
			shmtest.Say("%s", m.Address())
			shmtest.Say("%x", m.AuthKey())
		})
		if err != nil {
			shmtest.Say("%v", err)
		}
		return 0
	})
}

// The ways of the helper "client".
const (
	kept  = "kept"
	fresh = "fresh"
	plain = "plain"
)

func helperConnect(args []string) (*manager.Manager, error) {
	key, err := hex.DecodeString(args[1])
	if err != nil {
		return nil, err
	}
	return manager.Open(context.Background(), &manager.Options{Address: args[0], AuthKey: key, Dir: args[2]})
}

// alone returns a directory for the test's own blocks.
func alone(t testing.TB) string {
	t.Helper()
	dir := filepath.Join("/dev/shm", shmtest.Name(t))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func clientArgs(m *manager.Manager, dir string) []string {
	return []string{m.Address(), hex.EncodeToString(m.AuthKey()), dir}
}

// sweep removes what the dead have left, and returns the blocks that are there.
func sweep(t testing.TB, dir string) (left []string) {
	t.Helper()
	if _, err := shm.Dir(dir).Prune(); err != nil {
		t.Fatal(err)
	}
	infos, err := shm.Dir(dir).List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		left = append(left, i.Name)
	}
	return left
}

// TestClientKilled lets a client die that has created a block: the block is the
// manager's, and stays.
func TestClientKilled(t *testing.T) {
	for _, way := range []string{kept, fresh, plain} {
		t.Run(way, func(t *testing.T) { testClientKilled(t, way) })
	}
}

func testClientKilled(t *testing.T, way string) {
	modes(t, func(t *testing.T, o manager.Options) {
		dir := alone(t)
		o.Dir = dir
		m := start(t, &o)
		p := shmtest.Start(t, "client", append(clientArgs(m, dir), way)...)
		name := p.Line()
		info, err := shm.Dir(dir).Stat(name)
		if err != nil || !info.Owner.Alive || info.Owner.PID == p.PID() || info.Owner.PID == os.Getpid() == o.Process {
			t.Errorf("the owner is %+v, %v", info.Owner, err)
		}
		p.Kill()
		if left := sweep(t, dir); !slices.Equal(left, []string{name}) {
			t.Errorf("after the client's death there are %q, want %q", left, name)
		}
		b, err := shm.Open(name, &shm.OpenOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if err := m.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if left := sweep(t, dir); len(left) > 0 {
			t.Errorf("after Shutdown there are %q", left)
		}
	})
}

// TestClientKilledBefore kills a client at each step of its way to that.
func TestClientKilledBefore(t *testing.T) {
	for _, step := range []string{"created", "tracked", "disowned"} {
		t.Run(step, func(t *testing.T) {
			dir := alone(t)
			m := start(t, &manager.Options{Dir: dir})
			p := shmtest.Start(t, "stepwise", clientArgs(m, dir)...)
			name := p.Line()
			if step != "created" {
				p.Send("track")
				p.Expect("tracked")
			}
			if step == "disowned" {
				p.Send("disown")
				p.Expect("disowned")
			}
			p.Kill()
			// The server sees its end, and is then done with it.
			eventually(t, m, func(s manager.Stats) bool { return s.Conns == 0 })
			left := sweep(t, dir)
			// What its maker still owned may go with it: nobody knows of it yet.
			if there := slices.Contains(left, name); step == "created" && there || step == "disowned" && !there {
				t.Errorf("before Shutdown there are %q", left)
			}
			if err := m.Shutdown(t.Context()); step != "tracked" && err != nil {
				t.Error(err)
			}
			if left := sweep(t, dir); len(left) > 0 {
				t.Errorf("after Shutdown there are %q", left)
			}
		})
	}
}

// TestOffer offers blocks to a server by hand.
func TestOffer(t *testing.T) {
	dir := alone(t)
	p := shmtest.Start(t, "server", dir, "unix:@"+shmtest.Name(t))
	args := []string{p.Line(), p.Line(), dir}
	m, err := helperConnect(args)
	if err != nil {
		t.Fatal(err)
	}
	owner := func(name string) int {
		t.Helper()
		info, err := shm.Dir(dir).Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		return info.Owner.PID
	}
	for _, tt := range []struct {
		name   string
		offer  func(*lease.Offered) string // nil: as it is
		taken  any                         // the answer
		before func(*lease.Offered)
		after  int // 0: the server's, 1: ours, and tracked, 2: ours, and not
	}{
		{name: "given", taken: true, before: func(o *lease.Offered) { o.Given() }},
		{name: "not heard of", taken: true, after: 2},
		{name: "withdrawn", taken: true, before: func(o *lease.Offered) { o.Kept() }, after: 2},
		{name: "another offer", offer: func(*lease.Offered) string { return "0123456789abcdef.0" }, after: 1},
		{name: "nonsense", offer: func(*lease.Offered) string { return "\x00../." }, after: 1},
		{name: "not offered", offer: func(o *lease.Offered) string { o.Kept(); return o.Text }, after: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := shm.Create("", 100, &shm.CreateOptions{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			o := lease.Blocks.Offer(b)
			text := o.Text
			if tt.offer != nil {
				text = tt.offer(o)
			}
			c, err := connDial(t, m)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Send(conn.Tuple{nil, "track_segment", conn.Tuple{b.Name()}, conn.Dict{{Key: "offer", Value: text}}}); err != nil {
				t.Fatal(err)
			}
			if v, err := c.Recv(); err != nil || !reflect.DeepEqual(v, conn.Tuple{"#RETURN", tt.taken}) {
				t.Fatalf("the answer is %v, %v, want %v", v, err, tt.taken)
			}
			if tt.before != nil {
				tt.before(o)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			// When it has done with the connection, its list is as it stays.
			want := []string{b.Name()}
			if tt.after == 2 {
				want = []string{}
			}
			for end := time.Now().Add(shmtest.Patience); !slices.Equal(names(t, m), want); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("blocks %q, want %q", names(t, m), want)
				}
			}
			if pid := owner(b.Name()); pid == os.Getpid() != (tt.after > 0) {
				t.Errorf("it is owned by %d, which may be this process, %d", pid, os.Getpid())
			}
			o.Kept()
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if tt.after > 0 {
				if err := b.Unlink(); err != nil {
					t.Error(err)
				}
			}
			if tt.after < 2 {
				if err := m.Release(t.Context(), b.Name()); err != nil != (tt.after == 1) {
					t.Error(err)
				}
			}
		})
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	p.Wait()
	if left := sweep(t, dir); len(left) > 0 {
		t.Errorf("there are %q", left)
	}
}

// TestNoOffer gives blocks to a server that answers one request of a connection, as
// Python's do: it gets what it gets from Python, though the first connection is one that has
// served before.
func TestNoOffer(t *testing.T) {
	messages := golden(t)
	dir := alone(t)
	s := newScripted(t)
	s.says <- messages["rep_none"]
	m, err := manager.Open(t.Context(), &manager.Options{Address: s.l.Addr(), AuthKey: []byte("key"), Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	<-s.got
	for range 2 {
		b, err := shm.Create(first, 100, &shm.CreateOptions{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s.says <- messages["rep_none"]
		s.says <- messages["rep_none"]
		if err := m.Track(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"req_track_segment", "req_dummy"} {
			if got := <-s.got; !bytes.Equal(got, messages[want]) {
				t.Errorf("the server gets\n%swant\n%s", hex.Dump(got), hex.Dump(messages[want]))
			}
		}
		if info, err := shm.Dir(dir).Stat(first); err != nil || info.Owner.Alive {
			t.Errorf("the owner is %+v, %v", info.Owner, err)
		}
		if err := errors.Join(b.Close(), b.Unlink()); err != nil {
			t.Error(err)
		}
	}
	// One that dies, or does not serve any more, leaves the block to its maker.
	b, err := shm.Create(first, 100, &shm.CreateOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	s.says <- messages["rep_none"]
	s.says <- messages["rep_traceback"]
	if err := m.Track(t.Context(), b); err == nil {
		t.Error("a server that does not serve any more has tracked a block")
	}
	if info, err := shm.Dir(dir).Stat(first); err != nil || info.Owner.PID != os.Getpid() {
		t.Errorf("the owner is %+v, %v", info.Owner, err)
	}
	if err := errors.Join(b.Close(), b.Unlink()); err != nil {
		t.Error(err)
	}
}

// TestServerKilled kills the server: the next sweep removes its blocks, and no
// others.
func TestServerKilled(t *testing.T) {
	dir := alone(t)
	p := shmtest.Start(t, "server", dir, "unix:@"+shmtest.Name(t))
	args := []string{p.Line(), p.Line(), dir}
	m, err := helperConnect(args)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []*shm.Block
	for range 20 {
		blocks = append(blocks, create(t, m, 100))
	}
	l, err := m.CreateList(t.Context(), []any{1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	living, err := shm.Create(shmtest.Name(t), 100, &shm.CreateOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, shmtest.Name(t))
	if err := os.WriteFile(foreign, []byte("foreign"), 0o600); err != nil {
		t.Fatal(err)
	}
	if left := sweep(t, dir); len(left) != 23 {
		t.Errorf("while it lives there are %q", left)
	}
	p.Kill()
	want := []string{living.Name(), filepath.Base(foreign)}
	slices.Sort(want)
	left := sweep(t, dir)
	slices.Sort(left)
	if !slices.Equal(left, want) {
		t.Errorf("after its death there are %q, want %q", left, want)
	}
	if _, err := m.Create(t.Context(), 100); err == nil {
		t.Error("a dead server answers")
	}
	copy(blocks[0].Bytes(), "still mapped")
	if err := errors.Join(living.Close(), living.Unlink(), os.Remove(foreign)); err != nil {
		t.Error(err)
	}
}

// TestProcessKilled kills the server's process; the one that started it lives.
func TestProcessKilled(t *testing.T) {
	canStart(t)
	dir := alone(t)
	m := start(t, &manager.Options{Dir: dir, Process: true, Address: "unix:@" + shmtest.Name(t)})
	name := create(t, m, 100).Name()
	info, err := shm.Dir(dir).Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(info.Owner.PID)
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Wait: %v", err)
	}
	if left := sweep(t, dir); len(left) > 0 {
		t.Errorf("after its death there are %q", left)
	}
	if err := m.Shutdown(t.Context()); err == nil {
		t.Error("Shutdown of a dead one: no error")
	}
}

// TestProcessOutlives lets the process die that has started the server's.
func TestProcessOutlives(t *testing.T) {
	canStart(t)
	dir := alone(t)
	p := shmtest.Start(t, "starter", dir, "unix:@"+shmtest.Name(t))
	m, err := helperConnect([]string{p.Line(), p.Line(), dir})
	if err != nil {
		t.Fatal(err)
	}
	name := p.Line()
	p.Kill()
	if got := names(t, m); !slices.Equal(got, []string{name}) {
		t.Errorf("blocks %q, want %q", got, name)
	}
	if left := sweep(t, dir); !slices.Equal(left, []string{name}) {
		t.Errorf("there are %q, want %q", left, name)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if left := sweep(t, dir); len(left) > 0 {
		t.Errorf("after Shutdown there are %q", left)
	}
}

func init() {
	shmtest.Register("starter", func(args []string) int {
		m, err := manager.Start(context.Background(), &manager.Options{Process: true, Dir: args[0], Address: args[1]})
		if err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("%s", m.Address())
		shmtest.Say("%x", m.AuthKey())
		b, err := m.Create(context.Background(), 10)
		if err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("%s", b.Name())
		shmtest.Hear()
		return 0
	})
}

// TestTerminated sends the server's process what a service manager sends.
func TestTerminated(t *testing.T) {
	canStart(t)
	dir := alone(t)
	m := start(t, &manager.Options{Dir: dir, Process: true})
	info, err := shm.Dir(dir).Stat(create(t, m, 100).Name())
	if err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(info.Owner.PID)
	if err != nil {
		t.Fatal(err)
	}
	// ^C is for its users.
	if err := p.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	names(t, m)
	if err := p.Signal(terminate); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended(m):
		if err != nil {
			t.Error(err)
		}
	case <-time.After(shmtest.Patience):
		t.Fatal("it does not end")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("it has left %v, %v", entries, err)
	}
}

// TestLivingOwner has the manager track a block that another process owns, and
// goes on owning.
func TestLivingOwner(t *testing.T) {
	dir := alone(t)
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			m := start(t, &manager.Options{Dir: dir})
			name := shmtest.Name(t)
			var p *shmtest.Process
			own := func() {
				p = shmtest.Start(t, "owner", dir, name)
				p.Expect("ready")
			}
			if when == "before" {
				own()
			}
			trackName(t, m, name)
			if when == "after" {
				own() // it was not there when its name was tracked
			}
			err := m.Release(t.Context(), name)
			var remote *manager.RemoteError
			if !errors.As(err, &remote) || !strings.HasPrefix(remote.Text, "PermissionError: ") {
				t.Errorf("Release: %v", err)
			}
			if err := m.Shutdown(t.Context()); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("Shutdown: %v", err)
			}
			if left := sweep(t, dir); !slices.Equal(left, []string{name}) {
				t.Errorf("there are %q, want %q", left, name)
			}
			p.Kill()
			if left := sweep(t, dir); len(left) > 0 {
				t.Errorf("after its owner's death there are %q", left)
			}
		})
	}
}

func init() {
	shmtest.Register("owner", func(args []string) int {
		if _, err := shm.Create(args[1], 100, &shm.CreateOptions{Dir: args[0]}); err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("ready")
		shmtest.Hear()
		return 0
	})
}

// trackName tells the server a name, as clients of other making may, and waits
// until it has done with it.
func trackName(t testing.TB, m *manager.Manager, name string) {
	t.Helper()
	c, err := connDial(t, m)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Send(conn.Tuple{nil, "track_segment", conn.Tuple{name}, conn.Dict{}}); err != nil {
		t.Fatal(err)
	}
	if v, err := c.Recv(); err != nil || v.(conn.Tuple)[0] != "#RETURN" {
		t.Fatalf("track_segment %q: %v, %v", name, v, err)
	}
	c.Close()
	eventually(t, m, func(s manager.Stats) bool { return s.Conns == 0 })
}

// TestSuccessor has another block under a tracked name when the manager ends.
func TestSuccessor(t *testing.T) {
	dir := alone(t)
	m := start(t, &manager.Options{Dir: dir})
	name := create(t, m, 100).Name()
	if err := shm.Dir(dir).Unlink(name); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, name)
	if err := os.WriteFile(other, []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.Shutdown(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Shutdown: %v", err)
	}
	if got, err := os.ReadFile(other); string(got) != "another's" {
		t.Errorf("the other block: %q, %v", got, err)
	}
}

// TestForeign has the manager track what a Python program has made: it owns it
// from then on.
func TestForeign(t *testing.T) {
	dir := alone(t)
	m := start(t, &manager.Options{Dir: dir})
	name := shmtest.Name(t)
	if err := os.WriteFile(filepath.Join(dir, name), []byte("Python's"), 0o600); err != nil {
		t.Fatal(err)
	}
	trackName(t, m, name)
	if i, err := shm.Dir(dir).Stat(name); err != nil || i.Owner.PID != os.Getpid() {
		t.Errorf("its owner is %+v, %v", i.Owner, err)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if left := sweep(t, dir); len(left) > 0 {
		t.Errorf("there are %q", left)
	}
}

// TestOtherUser has the manager of one user track a block of another.
func TestOtherUser(t *testing.T) {
	nobody := asNobody(t)
	dir := alone(t)
	if err := os.Chmod(dir, 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	name := shmtest.Name(t)
	path := filepath.Join(dir, name)
	for _, mode := range []fs.FileMode{0o600, 0o644, 0o666} {
		if err := errors.Join(os.WriteFile(path, []byte("root's"), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		p := nobody("server", dir, "unix:@"+shmtest.Name(t))
		args := []string{p.Line(), p.Line(), dir}
		m, err := helperConnect(args)
		if err != nil {
			t.Fatal(err)
		}
		c, err := connDial(t, m)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Send(conn.Tuple{nil, "track_segment", conn.Tuple{name}, conn.Dict{}}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Recv(); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := m.Shutdown(t.Context()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("mode %v: Shutdown: %v", mode, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("mode %v: another user's block is gone: %v", mode, err)
		}
		p.Wait()
	}
}
