package worker

import (
	"bytes"
	"errors"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/shmtest"
)

type sample struct {
	B      bool
	N      int
	F      complex128
	S      string
	Raw    []byte
	Words  []uint16
	Texts  []string
	Empty  []struct{}
	Map    map[string][]int32
	Nested map[int8]map[string]*sample
	Next   *sample
	Array  [3]string
	Flat   [4]struct{ A, B int16 }
	When   time.Duration
}

type holder struct {
	V   sample
	Any any
}

type nest []nest

// What is encoded comes back, whether it lies in one piece or in a block.
func TestCodec(t *testing.T) {
	c, err := codecFor[holder]()
	if err != nil {
		t.Fatal(err)
	}
	check := func(v sample, n uint16) bool {
		v.Raw = append(v.Raw, make([]byte, 2*n)...)
		in := holder{v, v.S}
		var p payload
		if err := c.encode(&p, in); err != nil {
			if errors.Is(err, errors.ErrUnsupported) {
				return true // long values need blocks without names
			}
			t.Fatal(err)
		}
		defer p.release()
		r := &reply{data: p.data, long: p.block != nil, size: p.size, files: p.files}
		got, err := c.decode(r)
		if err != nil {
			t.Fatal(err)
		}
		return reflect.DeepEqual(in, got)
	}
	if err := quick.Check(check, &quick.Config{MaxCount: 200}); err != nil {
		t.Error(err)
	}
	var v nest
	for range depthMax + 1 {
		v = nest{v}
	}
	deep, err := codecFor[nest]()
	if err != nil {
		t.Fatal(err)
	}
	if err := deep.encode(&payload{}, v); !errors.Is(err, ErrEncode) {
		t.Error(err)
	}
	if _, err := deep.decode(&reply{data: bytes.Repeat([]byte{2}, 1<<20)}); !errors.Is(err, ErrProtocol) {
		t.Error(err)
	}
	for _, err := range []error{
		second(codecFor[chan int]()), second(codecFor[struct{ F func() }]()), second(codecFor[map[string]struct{ c chan int }]()),
		second(codecFor[[]*struct{ x *int }]()),
	} {
		if !errors.Is(err, ErrEncode) {
			t.Error(err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// FuzzDecode: whatever a worker sends, it is a value or an error.
func FuzzDecode(f *testing.F) {
	c, err := codecFor[holder]()
	if err != nil {
		f.Fatal(err)
	}
	h, err := codecFor[[]*array.Array[int32]]()
	if err != nil {
		f.Fatal(err)
	}
	var p payload
	if err := c.encode(&p, holder{sample{S: "x", Map: map[string][]int32{"a": {1}}, Next: &sample{Texts: []string{"y"}}}, 3}); err != nil {
		f.Fatal(err)
	}
	f.Add(p.data)
	f.Add([]byte{2, 1, 0, 1, 'x', 0, 3, '<', 'i', '4', 0, 1, 1, 1, 4})
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := c.decode(&reply{data: data}); err == nil {
			var p payload
			if err := c.encode(&p, v); err != nil {
				t.Errorf("%+v cannot be sent back: %v", v, err)
			}
			p.release()
		} else if !errors.Is(err, ErrProtocol) {
			t.Error(err)
		}
		if v, err := h.decode(&reply{data: data}); err == nil {
			for _, a := range v {
				if a != nil {
					_ = a.Close()
				}
			}
		}
		_ = parseFailure(data)
		_, _, _ = takeOffers(data)
	})
}

// A slot is believed in nothing.
func TestHostileSlot(t *testing.T) {
	if err := wait.Supported(); err != nil {
		shmtest.Skip(t, "futexes", err.Error())
	}
	a, err := newArea()
	if err != nil {
		t.Fatal(err)
	}
	defer a.block.Close()
	s := a.slot(3)
	for _, w := range [][3]uint64{
		{0, 1 << 17, 0}, {0, 0, 1 << 17}, {0, 1 << 63, 1 << 63}, {0, 65632, 1}, {flagBlock, 1 << 63, 0}, {flagBlock, 5, 0},
	} {
		s.words[wordFlags].Store(w[0])
		s.words[wordSize].Store(w[1])
		s.words[wordExtra].Store(w[2])
		for _, named := range []bool{true, false} {
			s.data[0] = 255
			if m, err := s.get(named); !errors.Is(err, ErrProtocol) {
				t.Errorf("%v: %d bytes, %v", w, len(m.data), err)
			}
		}
	}
	if err := parseFailure(appendFailure(nil, errors.New("x"))); err.Error() != "x" {
		t.Error(err)
	}
}

// What is long is copied once, into memory that had to be had first: if there is too little of
// that, nothing has been copied.
func TestLongValuesAreNotGathered(t *testing.T) {
	if err := wait.Supported(); err != nil {
		shmtest.Skip(t, "blocks without names", err.Error())
	}
	const n = 8 << 20
	text, raw := strings.Repeat("x", n), make([]byte, n)
	for name, encode := range map[string]func(p *payload) error{
		"string": func(p *payload) error { c, _ := codecFor[string](); return c.encode(p, text) },
		"bytes":  func(p *payload) error { c, _ := codecFor[[]byte](); return c.encode(p, raw) },
	} {
		var p payload
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := encode(&p)
		runtime.ReadMemStats(&after)
		if err != nil || p.block == nil || p.size <= n {
			t.Errorf("%s: %v, %d", name, err, p.size)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > n/2 {
			t.Errorf("%s: %d bytes of heap for one of %d", name, got, n)
		}
		p.release()
	}
}
