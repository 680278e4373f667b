//go:build linux

package topic_test

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

func latest(t *testing.T, o topic.Options) *topic.Latest {
	t.Helper()
	l, err := topic.CreateLatest(shmtest.Name(t), &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Unlink()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func TestLatest(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	l := latest(t, topic.Options{})
	if o := l.Options(); o.Slots != 4 || o.Policy != topic.Overwrite {
		t.Errorf("%+v", o)
	}
	buf := make([]byte, 48)
	if n, version, err := l.Get(buf); n != 0 || version != 0 || err != nil {
		t.Fatal(n, version, err)
	}
	reader, err := topic.OpenLatest(l.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for i := range 20 {
		if err := l.Set([]byte("value")[:1+i%5]); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if n, version, err := reader.Get(buf); n != 1+i%5 || version != uint64(i+1) || err != nil {
				t.Fatal(i, n, version, err)
			}
		}
	}
	if n, _, err := reader.Get(buf[:2]); n != 5 || !errors.Is(err, io.ErrShortBuffer) {
		t.Fatal(n, err)
	}
	mustBe(t, reader.Set(nil), topic.ErrTaken)
	// Whoever waits for a change sees it, or that it is there already.
	if n, version, err := reader.Changed(t.Context(), buf, 7); n != 5 || version != 20 || err != nil {
		t.Fatal(n, version, err)
	}
	changed := goes(func() error {
		n, version, err := reader.Changed(t.Context(), buf, 20)
		if err == nil && (n != 3 || version != 21) {
			t.Error(n, version)
		}
		return err
	})
	if err := l.Set([]byte("new")); err != nil {
		t.Fatal(err)
	}
	mustBe(t, <-changed, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err = reader.Changed(ctx, buf, 21)
	mustBe(t, err, context.Canceled)
	changed = goes(func() error {
		_, _, err := reader.Changed(t.Context(), buf, 21)
		return err
	})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	mustBe(t, <-changed, io.EOF)
	if n, version, err := reader.Get(buf); n != 3 || version != 21 || err != nil {
		t.Fatal(n, version, err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err = reader.Get(buf)
	mustBe(t, err, os.ErrClosed)
	_, err = topic.CreateLatest(shmtest.Name(t), &topic.Options{Policy: topic.Wait})
	mustBe(t, err, errors.ErrUnsupported)
	_, err = topic.OpenLatest(create(t, topic.Options{Policy: topic.Wait}).Name(), nil)
	mustBe(t, err, topic.ErrOptions)
}

func TestLatestTyped(t *testing.T) {
	l := latest(t, topic.Options{ManyPublishers: true})
	if _, err := topic.LatestOf[*int](l); !errors.Is(err, shm.ErrFormat) {
		t.Error(err)
	}
	points, err := topic.LatestOf[point](l)
	if err != nil {
		t.Fatal(err)
	}
	if v, version, err := points.Get(); v != (point{}) || version != 0 || err != nil {
		t.Fatal(v, version, err)
	}
	for i := range int32(10) {
		if err := points.Set(point{1, 2, i}); err != nil {
			t.Fatal(err)
		}
		if v, version, err := points.Get(); v != (point{1, 2, i}) || version != uint64(i+1) || err != nil {
			t.Fatal(v, version, err)
		}
	}
	if v, version, err := points.Changed(t.Context(), 3); v.N != 9 || version != 10 || err != nil {
		t.Fatal(v, version, err)
	}
	for _, n := range []int{5, 48} {
		if err := l.Set(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		_, _, err = points.Get()
		mustBe(t, err, shm.ErrFormat)
	}
}

// Who dies while it sets a value leaves the one before.
func TestLatestDeath(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	for _, many := range []bool{false, true} {
		l := latest(t, topic.Options{ManyPublishers: many})
		p := shmtest.Start(t, "setter", l.Name())
		p.Expect("set, and writing")
		buf := make([]byte, 48)
		if n, version, err := l.Get(buf); string(buf[:n]) != "before" || version != 1 || err != nil {
			t.Fatal(string(buf[:n]), version, err)
		}
		changed := goes(func() error { _, _, err := l.Changed(t.Context(), make([]byte, 48), 1); return err })
		p.Kill()
		mustBe(t, <-changed, topic.ErrPeerGone)
		if n, version, err := l.Get(buf); string(buf[:n]) != "before" || version != 1 || err != nil {
			t.Fatal(string(buf[:n]), version, err)
		}
		err := l.Set([]byte("after"))
		for errors.Is(err, topic.ErrTaken) { // its lease is let go of a moment after its death
			err = l.Set([]byte("after"))
		}
		if n, version, err2 := l.Get(buf); string(buf[:n]) != "after" || err != nil || err2 != nil {
			t.Fatal(string(buf[:n]), version, err, err2)
		}
	}
}

func init() {
	shmtest.Register("setter", func(args []string) int {
		l, err := topic.OpenLatest(args[0], nil)
		if err != nil {
			return complain(err)
		}
		p, err := l.Publisher()
		if err == nil {
			err = p.Publish([]byte("before"))
		}
		if err != nil {
			return complain(err)
		}
		m, err := p.Reserve(48)
		if err != nil {
			return complain(err)
		}
		copy(m, "half a va")
		shmtest.Say("set, and writing")
		shmtest.Hear()
		return 0
	})
}
