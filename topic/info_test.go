//go:build linux

package topic_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

func TestDescribe(t *testing.T) {
	modes(t, func(t *testing.T, o topic.Options) {
		o.Slots, o.SlotSize = 4, 16
		tp := create(t, o)
		p := publisherOf(t, tp)
		s := subscriberOf(t, tp)
		for i := range 3 {
			if err := p.Publish([]byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		received(t, s)
		b, err := shm.Open(tp.Name(), &shm.OpenOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		i, err := topic.Describe(b)
		if err != nil || i.Elsewhere || i.Options.Slots != 4 || i.Options.Policy != o.Policy || i.Options.ManyPublishers != o.ManyPublishers ||
			i.Stats.Published != 3 || i.Stats.Received != 1 || i.Stats.Kept != 3 || i.Stats.Publishers != 1 || i.Stats.Subscribers != 1 {
			t.Errorf("%+v %v", i, err)
		}
		for k, role := range []string{"publisher", "subscriber"} {
			if p := i.Participants[k]; p.Role != role || p.Owner.PID != os.Getpid() || !p.Owner.Alive || p.Behind != uint64(2*k) {
				t.Errorf("%+v", p)
			}
		}
		if info, err := shm.Stat(tp.Name()); info.Kind != "topic" || err != nil {
			t.Errorf("%+v %v", info, err)
		}
		ms, next, err := topic.Peek(b, 1)
		if fmt.Sprint(ms) != "[{1 [1]} {2 [2]}]" || next != 3 || err != nil {
			t.Error(ms, next, err)
		}
		if _, err := p.Reserve(1); err != nil {
			t.Fatal(err)
		}
		if ms, next, err = topic.Peek(b, 3); len(ms) != 0 || next != 3 || err != nil {
			t.Error(ms, next, err)
		}
		if err := p.Commit(1); err != nil {
			t.Fatal(err)
		}
		received(t, s)
		if err := p.Publish([]byte{4}); err != nil {
			t.Fatal(err)
		}
		ms, next, err = topic.Peek(b, 0)
		if len(ms) != 4 || ms[0].Number != 1 || ms[3].Number != 4 || ms[3].Data[0] != 4 || next != 5 || err != nil {
			t.Error(ms, next, err)
		}
	})
	none, err := shm.Create(shmtest.Name(t), 8192, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer none.Unlink()
	_, err = topic.Describe(none)
	mustBe(t, err, shm.ErrFormat)
	_, _, err = topic.Peek(none, 0)
	mustBe(t, err, shm.ErrFormat)
	if err := none.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err = topic.Describe(none); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}
