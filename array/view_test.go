package array_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/shmtest"
)

// model is a view the dull way: for every element, the last index changing
// fastest, where in memory it lies.
type model struct {
	shape []int
	at    []int
}

func indices(shape []int) (all [][]int) {
	all = [][]int{{}}
	for _, n := range shape {
		var next [][]int
		for _, idx := range all {
			for i := range n {
				next = append(next, append(slices.Clone(idx), i))
			}
		}
		all = next
	}
	return all
}

// where finds an element by going through all of them.
func (m model) where(idx []int) int {
	for k, i := range indices(m.shape) {
		if slices.Equal(i, idx) {
			return m.at[k]
		}
	}
	panic(fmt.Sprintf("model: %v of %v", idx, m.shape))
}

// view makes the view of another shape, whose element idx was from(idx).
func (m model) view(shape []int, from func(idx []int) []int) model {
	v := model{shape: shape}
	for _, idx := range indices(shape) {
		v.at = append(v.at, m.where(from(idx)))
	}
	return v
}

// affine reports whether strides can describe the view in another shape.
func (m model) affine(shape []int) bool {
	all := indices(shape)
	if len(all) == 0 {
		return true
	}
	steps := make([]int, len(shape))
	for k, idx := range all {
		// The index with a single 1, if there is one, has the step.
		for axis, i := range idx {
			if one := slices.Clone(idx); i == 1 {
				if one[axis] = 0; !slices.ContainsFunc(one, func(i int) bool { return i != 0 }) {
					steps[axis] = m.at[k] - m.at[0]
				}
			}
		}
	}
	for k, idx := range all {
		at := m.at[0]
		for axis, i := range idx {
			at += i * steps[axis]
		}
		if at != m.at[k] {
			return false
		}
	}
	return true
}

func (m model) order() array.Order {
	next := func(m model) bool {
		for k, at := range m.at {
			if at != m.at[0]+k {
				return false
			}
		}
		return true
	}
	switch t := m.transpose(); {
	case next(m):
		return array.C
	case next(t):
		return array.Fortran
	}
	return array.Strided
}

func (m model) transpose() model {
	shape := slices.Clone(m.shape)
	slices.Reverse(shape)
	return m.view(shape, func(idx []int) []int {
		idx = slices.Clone(idx)
		slices.Reverse(idx)
		return idx
	})
}

// world is a block, twice in this process, and what should be in it.
type world struct {
	t      *testing.T
	r      *rand.Rand
	blocks [2]*shm.Block
	mem    []int32
}

// random makes an array somewhere in the block.
func (w *world) random() (*array.Array[int32], model) {
	shape := make([]int, w.r.IntN(5))
	n := 1
	for i := range shape {
		shape[i] = 1 + w.r.IntN(4)
		if w.r.IntN(25) == 0 {
			shape[i] = 0
		}
		n *= shape[i]
	}
	b := w.blocks[w.r.IntN(2)]
	if w.r.IntN(3) > 0 {
		order, off := []array.Order{array.C, array.Fortran}[w.r.IntN(2)], w.r.IntN(len(w.mem)-n)
		a, err := array.FromBlock[int32](b, 4*off, shape, order)
		if err != nil {
			w.t.Fatal(err)
		}
		m := model{shape: shape}
		for k := range n {
			m.at = append(m.at, off+k)
		}
		if order == array.Fortran {
			slices.Reverse(m.shape)
			m = m.transpose()
		}
		return a, m
	}
	for {
		strides, off := make([]int, len(shape)), w.r.IntN(len(w.mem))
		lo, hi := off, off
		for i, n := range shape {
			s := w.r.IntN(41) - 20
			strides[i] = 4 * s
			lo, hi = lo+min(0, s*(n-1)), hi+max(0, s*(n-1))
		}
		a, err := array.FromBlockStrided[int32](b, 4*off, shape, strides)
		if n > 0 && (lo < 0 || hi >= len(w.mem)) {
			if !errors.Is(err, shm.ErrSize) {
				w.t.Fatalf("from %d, %v in steps of %v: %v, and it leaves the block", 4*off, shape, strides, err)
			}
			continue
		}
		if err != nil {
			w.t.Fatalf("from %d, %v in steps of %v: %v", 4*off, shape, strides, err)
		}
		if !slices.Equal(a.Strides(), strides) {
			w.t.Fatalf("strides %v, want %v", a.Strides(), strides)
		}
		m := model{shape: shape}
		for _, idx := range indices(shape) {
			at := off
			for k, i := range idx {
				at += i * strides[k] / 4
			}
			m.at = append(m.at, at)
		}
		return a, m
	}
}

// step makes another view.
func (w *world) step(a *array.Array[int32], m model) (*array.Array[int32], model, string) {
	r, dims := w.r, len(m.shape)
	op := r.IntN(7)
	if dims == 0 && op < 5 {
		op = 5
	}
	axis := 0
	if dims > 0 {
		axis = r.IntN(dims)
	}
	with := func(idx []int, i int) []int {
		idx = slices.Clone(idx)
		idx[axis] = i
		return idx
	}
	shape := slices.Clone(m.shape)
	switch op {
	case 0:
		if shape[0] == 0 {
			return a, m, ""
		}
		i := r.IntN(shape[0])
		return a.Sub(i), m.view(shape[1:], func(idx []int) []int { return append([]int{i}, idx...) }), fmt.Sprintf("Sub(%d)", i)
	case 1, 2:
		lo := r.IntN(shape[axis] + 1)
		hi := lo + r.IntN(shape[axis]-lo+1)
		if hi == lo && r.IntN(4) > 0 {
			lo, hi = 0, shape[axis] // or everything would soon be empty
		}
		shape[axis] = hi - lo
		v := m.view(shape, func(idx []int) []int { return with(idx, lo+idx[axis]) })
		if axis == 0 && op == 1 {
			return a.Slice(lo, hi), v, fmt.Sprintf("Slice(%d, %d)", lo, hi)
		}
		return a.SliceAxis(axis, lo, hi), v, fmt.Sprintf("SliceAxis(%d, %d, %d)", axis, lo, hi)
	case 3:
		k := 1 + r.IntN(4)
		if r.IntN(10) == 0 {
			k = math.MaxInt - r.IntN(2)
		}
		n := 0
		for i := 0; i < shape[axis]; n++ {
			if i > math.MaxInt-k {
				n++
				break
			}
			i += k
		}
		shape[axis] = n
		return a.Step(axis, k), m.view(shape, func(idx []int) []int { return with(idx, idx[axis]*k) }), fmt.Sprintf("Step(%d, %d)", axis, k)
	case 4:
		v := m.view(shape, func(idx []int) []int { return with(idx, shape[axis]-1-idx[axis]) })
		return a.Flip(axis), v, fmt.Sprintf("Flip(%d)", axis)
	case 5:
		if r.IntN(3) == 0 {
			return a.Transpose(), m.transpose(), "Transpose()"
		}
		axes := r.Perm(dims)
		for k, from := range axes {
			shape[k] = m.shape[from]
		}
		v := m.view(shape, func(idx []int) []int {
			old := make([]int, dims)
			for k, from := range axes {
				old[from] = idx[k]
			}
			return old
		})
		if dims == 0 {
			return a.Transpose(), v, "Transpose()"
		}
		return a.Transpose(axes...), v, fmt.Sprintf("Transpose(%v)", axes)
	}
	// Reshape, to what has as many elements.
	rest := len(m.at)
	shape = nil
	for range r.IntN(4) {
		d := 1 + r.IntN(6)
		if rest%d != 0 {
			d = 1
		}
		shape = append(shape, d)
		if rest > 0 {
			rest /= d
		}
	}
	if rest != 1 || r.IntN(2) == 0 {
		shape = slices.Insert(shape, r.IntN(len(shape)+1), rest)
	}
	asked := slices.Clone(shape)
	if i := r.IntN(2 * (len(shape) + 1)); i < len(shape) && (len(m.at) > 0 || shape[i] == 0 && !slices.Contains(slices.Delete(slices.Clone(shape), i, i+1), 0)) {
		asked[i] = -1
	}
	v, err := a.Reshape(asked...)
	what := fmt.Sprintf("Reshape(%v)", asked)
	if !m.affine(shape) {
		if !errors.Is(err, shm.ErrFormat) {
			w.t.Fatalf("%s of %v, whose elements lie at %v: %v", what, m.shape, m.at, err)
		}
		return a, m, ""
	}
	if err != nil {
		w.t.Fatalf("%s of %v, whose elements lie at %v: %v", what, m.shape, m.at, err)
	}
	return v, model{shape, m.at}, what
}

func (w *world) values(m model) []int32 {
	var v []int32
	for _, at := range m.at {
		v = append(v, w.mem[at])
	}
	return v
}

// compare fails the test if the array differs from its model in anything.
func (w *world) compare(a *array.Array[int32], m model, path []string) {
	fail := func(what string, got, want any) {
		w.t.Helper()
		w.t.Fatalf("%s: %s is %v, want %v\nshape %v, elements at %v", strings.Join(path, "."), what, got, want, m.shape, m.at)
	}
	if !slices.Equal(a.Shape(), m.shape) || a.Len() != len(m.at) {
		fail("Shape", a.Shape(), m.shape)
	}
	want := w.values(m)
	k := 0
	for idx, v := range a.All() {
		if v != want[k] || v != a.At(idx...) || v != *a.Ptr(idx...) || !slices.Equal(idx, indices(m.shape)[k]) {
			fail(fmt.Sprint("All at ", k), v, want[k])
		}
		k++
	}
	if k != len(want) {
		fail("the number of All", k, len(want))
	}
	if got := slices.Collect(a.Values()); !slices.Equal(got, want) {
		fail("Values", got, want)
	}
	order := m.order()
	if a.Order() != order {
		fail("Order", a.Order(), order)
	}
	inMemory := m
	if order == array.Fortran {
		inMemory = m.transpose()
	}
	data := a.Data()
	if (data == nil) != (order == array.Strided) {
		fail("Data", data, order)
	}
	if data != nil && !slices.Equal(data, w.values(inMemory)) {
		fail("Data", data, w.values(inMemory))
	}
	c, err := a.Clone()
	if err != nil {
		w.t.Fatal(err)
	}
	if !slices.Equal(c.Data(), want) || !slices.Equal(c.Shape(), m.shape) || c.Order() != array.C {
		fail("Clone", c.Data(), want)
	}
	w.rows(a, m, want, fail)

	var file bytes.Buffer
	n, err := a.WriteNPY(&file)
	if err != nil || n != int64(file.Len()) {
		w.t.Fatal(n, err)
	}
	back, err := array.ReadNPY[int32](&file)
	if err != nil || file.Len() != 0 {
		w.t.Fatal(err)
	}
	if order == array.Strided {
		order = array.C
	}
	if got := slices.Collect(back.Values()); !slices.Equal(got, want) || !slices.Equal(back.Shape(), m.shape) || back.Order() != order {
		fail("the file", got, want)
	}
}

func (w *world) rows(a *array.Array[int32], m model, want []int32, fail func(what string, got, want any)) {
	last := len(m.shape) - 1
	if last < 0 {
		mustPanic(w.t, "no axis", func() { a.Row() })
		return
	}
	n := m.shape[last]
	gaps := n > 1 && len(m.at) > 0 && m.at[1] != m.at[0]+1
	if len(m.at) == 0 {
		if n > 1 {
			return // the steps of what has no elements are nobody's business
		}
	} else if gaps {
		mustPanic(w.t, "gaps", func() { a.Row(make([]int, last)...) })
		mustPanic(w.t, "gaps", func() {
			for range a.Rows() {
				w.t.Error("a row with gaps")
			}
		})
		return
	}
	count := 0
	for i, row := range a.Rows() {
		if i != count || len(row) != n || cap(row) != n && n > 0 || !slices.Equal(row, want[i*n:(i+1)*n]) {
			fail(fmt.Sprint("row ", i), row, want)
		}
		if one := a.Row(indices(m.shape[:last])[i]...); !slices.Equal(one, row) {
			fail(fmt.Sprint("Row ", i), one, row)
		}
		count++
	}
	if count != len(indices(m.shape[:last])) {
		fail("the number of rows", count, len(indices(m.shape[:last])))
	}
}

func (m model) distinct() bool {
	at := slices.Clone(m.at)
	slices.Sort(at)
	return len(slices.Compact(at)) == len(m.at)
}

// change writes through the view, and compares the whole memory.
func (w *world) change(a *array.Array[int32], m model, path []string) {
	fresh := w.r.Int32()
	switch w.r.IntN(4) {
	case 0:
		if len(m.at) > 0 {
			k := w.r.IntN(len(m.at))
			a.Set(fresh, indices(m.shape)[k]...)
			w.mem[m.at[k]] = fresh
			path = append(path, "Set")
		}
	case 1:
		if err := a.Fill(fresh); err != nil {
			w.t.Fatal(err)
		}
		for _, at := range m.at {
			w.mem[at] = fresh
		}
		path = append(path, "Fill")
	default:
		// From another view of the same memory, made to fit.
		src, s := w.random()
		for range w.r.IntN(5) {
			src, s, _ = w.step(src, s)
		}
		shape := make([]int, min(len(m.shape), len(s.shape)))
		for len(s.shape) > len(shape) {
			if s.shape[0] == 0 {
				return
			}
			src, s = src.Sub(0), s.view(s.shape[1:], func(idx []int) []int { return append([]int{0}, idx...) })
		}
		for len(m.shape) > len(shape) {
			if m.shape[0] == 0 {
				return
			}
			a, m = a.Sub(0), m.view(m.shape[1:], func(idx []int) []int { return append([]int{0}, idx...) })
		}
		for k := range shape {
			shape[k] = min(m.shape[k], s.shape[k])
			src, a = src.SliceAxis(k, 0, shape[k]), a.SliceAxis(k, 0, shape[k])
		}
		same := func(idx []int) []int { return idx }
		m, s = m.view(shape, same), s.view(shape, same)
		if !m.distinct() {
			return // which of several is stored last is open
		}
		values := w.values(s)
		if w.r.IntN(4) == 0 {
			// Out of the array, so that only addresses tell where it lies.
			if data := src.Data(); data != nil && src.Order() == array.C && src.Block() == a.Block() {
				var err error
				if src, err = array.Over(data, shape); err != nil {
					w.t.Fatal(err)
				}
			}
		}
		if err := a.CopyFrom(src); err != nil {
			w.t.Fatal(err)
		}
		for k, at := range m.at {
			w.mem[at] = values[k]
		}
		path = append(path, fmt.Sprintf("CopyFrom(%v at %v)", s.shape, s.at))
	}
	got, err := shm.Slice[int32](w.blocks[0], 0, len(w.mem))
	if err != nil {
		w.t.Fatal(err)
	}
	if !slices.Equal(got, w.mem) {
		w.t.Fatalf("%s changed the memory to\n%v, want\n%v\nshape %v, elements at %v", strings.Join(path, "."), got, w.mem, m.shape, m.at)
	}
}

// Views of views behave as lists of their elements' places do.
func TestViewsAgainstModel(t *testing.T) {
	rounds := 1500
	if os.Getenv("SHM_QEMU") != "" || testing.Short() {
		rounds = 300
	}
	// A page, which is more than any array of the test has: smaller blocks are
	// rounded up to one where a system does that.
	b, err := shm.Create(shmtest.Name(t), os.Getpagesize(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	o, err := shm.Open(b.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for seed := range rounds {
		w := &world{t: t, r: rand.New(rand.NewPCG(uint64(seed), 5)), blocks: [2]*shm.Block{b, o}, mem: make([]int32, b.Size()/4)}
		for i := range w.mem {
			w.mem[i] = int32(i)
		}
		data, err := shm.Slice[int32](b, 0, len(w.mem))
		if err != nil {
			t.Fatal(err)
		}
		copy(data, w.mem)
		a, m := w.random()
		path := []string{fmt.Sprintf("seed %d: %v", seed, a)}
		w.compare(a, m, path)
		for range 5 {
			var what string
			if a, m, what = w.step(a, m); what == "" {
				continue
			}
			path = append(path, what)
			w.compare(a, m, path)
			w.change(a, m, path)
		}
	}
}

func mustPanic(t *testing.T, want string, fn func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := fmt.Sprint(recover()); !strings.HasPrefix(got, "array: ") || !strings.Contains(got, want) {
			t.Errorf("panicked with %q, want %q", got, want)
		}
	}()
	fn()
}

func mustBe(t *testing.T, err, want error) {
	t.Helper()
	if e, ok := errors.AsType[*shm.Error](err); !ok || !errors.Is(err, want) || e.Op == "" {
		t.Errorf("%v, want %v", err, want)
	}
}

// Wrong indices of the caller's own panic, as those of slices do.
func TestPanics(t *testing.T) {
	a, err := array.Over(make([]int8, 24), []int{2, 3, 4})
	if err != nil {
		t.Fatal(err)
	}
	one, two := a.Sub(0).Sub(0), a.Sub(0)
	for _, idx := range [][]int{{2, 0, 0}, {0, 3, 0}, {0, 0, 4}, {-1, 0, 0}, {0, 0, -1}, {math.MinInt, 0, 0}, {0, math.MaxInt, 0}} {
		mustPanic(t, "out of range on axis", func() { a.At(idx...) })
		mustPanic(t, "out of range on axis", func() { a.Set(1, idx...) })
		mustPanic(t, "out of range on axis", func() { a.Ptr(idx...) })
	}
	for _, idx := range [][]int{{}, {0}, {0, 0}, {0, 0, 0, 0}} {
		mustPanic(t, "indices for 3 axes", func() { a.At(idx...) })
	}
	mustPanic(t, "index 4 out of range on axis 0 with length 4", func() { one.At(4) })
	mustPanic(t, "index -1 out of range on axis 0 with length 4", func() { one.At(-1) })
	mustPanic(t, "0 indices for 1 axes", func() { one.At() })
	mustPanic(t, "index 3 out of range on axis 0 with length 3", func() { two.At(3, 0) })
	mustPanic(t, "index 4 out of range on axis 1 with length 4", func() { two.At(0, 4) })
	mustPanic(t, "1 indices for 2 axes", func() { two.At(0) })
	mustPanic(t, "index 2 out of range", func() { a.Row(2, 0) })
	mustPanic(t, "1 indices for 2 axes", func() { a.Row(1) })
	mustPanic(t, "index 2 out of range", func() { a.Sub(2) })
	mustPanic(t, "index -1 out of range", func() { a.Sub(-1) })
	mustPanic(t, "axis 0 of an array with 0 axes", func() { one.Sub(0).Sub(0) })
	mustPanic(t, "no axis", func() {
		for range one.Sub(0).Rows() {
			t.Error("a row")
		}
	})
	mustPanic(t, "axis 3 of", func() { a.Flip(3) })
	mustPanic(t, "axis -1 of", func() { a.Flip(-1) })
	for _, b := range [][2]int{{-1, 1}, {0, 3}, {2, 1}, {3, 3}, {math.MinInt, math.MaxInt}} {
		mustPanic(t, "bounds", func() { a.Slice(b[0], b[1]) })
	}
	mustPanic(t, "axis 3 of", func() { a.SliceAxis(3, 0, 0) })
	mustPanic(t, "a step of 0", func() { a.Step(0, 0) })
	mustPanic(t, "a step of -1", func() { a.Step(0, -1) })
	mustPanic(t, "axis 3 of", func() { a.Step(3, 1) })
	mustPanic(t, "2 axes to transpose 3", func() { a.Transpose(0, 1) })
	mustPanic(t, "axis 1 twice", func() { a.Transpose(0, 1, 1) })
	mustPanic(t, "axis 3 of", func() { a.Transpose(0, 1, 3) })
}

func TestReshapeErrors(t *testing.T) {
	a, err := array.Over(make([]int8, 24), []int{2, 3, 4})
	if err != nil {
		t.Fatal(err)
	}
	none, err := array.Over([]int8{}, []int{0, 3})
	if err != nil {
		t.Fatal(err)
	}
	for _, shape := range [][]int{{}, {23}, {25}, {-1, -1}, {-1, 5}, {-2, 12}, {-2, -12}, {0, -1}, {24, 0}, {math.MaxInt, math.MaxInt}, slices.Repeat([]int{1}, 65)} {
		_, err := a.Reshape(shape...)
		mustBe(t, err, shm.ErrSize)
	}
	for _, shape := range [][]int{{}, {1}, {0, -1}, {-1, 0}, {-1, -1}, {0, math.MaxInt, 2}} {
		_, err := none.Reshape(shape...)
		mustBe(t, err, shm.ErrSize)
	}
	for want, shape := range map[string][]int{"(0,)": {-1}, "(0, 5)": {-1, 5}, "(0, 0)": {0, 0}, "(7, 0)": {7, 0}} {
		v, err := none.Reshape(shape...)
		if err != nil || !strings.Contains(v.String(), want) {
			t.Errorf("%v: %v, %v", shape, v, err)
		}
	}
	_, err = a.Transpose().Reshape(24)
	mustBe(t, err, shm.ErrFormat)
	if _, err := a.Reshape(slices.Repeat([]int{1}, 63)...); err == nil {
		t.Error("24 elements in one")
	}
	if _, err := a.Reshape(append(slices.Repeat([]int{1}, 63), -1)...); err != nil {
		t.Error(err)
	}
}

// Nothing is allocated for an element or a row.
func TestAllocations(t *testing.T) {
	a, err := array.Over(make([]float32, 600), []int{20, 30})
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	for name, fn := range map[string]func(){
		"At":    func() { sinkFloat += float64(a.At(i%20, i%30)) },
		"Set":   func() { a.Set(1, i%20, i%30) },
		"Ptr":   func() { *a.Ptr(i%20, i%30) = 5 },
		"Row":   func() { sinkFloat += float64(a.Row(i % 20)[3]) },
		"Data":  func() { sinkFloat += float64(a.Data()[3]) },
		"Len":   func() { sinkFloat += float64(a.Len()) },
		"Order": func() { sinkFloat += float64(a.Order()) },
	} {
		if n := testing.AllocsPerRun(100, func() { i++; fn() }); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
	for name, fn := range map[string]func(a *array.Array[float32]){
		"Rows": func(a *array.Array[float32]) {
			for _, row := range a.Rows() {
				sinkFloat += float64(row[0])
			}
		},
		"All": func(a *array.Array[float32]) {
			for idx, v := range a.All() {
				sinkFloat += float64(v) + float64(idx[0])
			}
		},
		"Values": func(a *array.Array[float32]) {
			for v := range a.Values() {
				sinkFloat += float64(v)
			}
		},
		"Fill": func(a *array.Array[float32]) { a.Fill(3) },
	} {
		for _, v := range []*array.Array[float32]{a, a.Step(0, 2)} {
			few, many := v.Slice(0, 1), v
			if n, m := testing.AllocsPerRun(100, func() { fn(few) }), testing.AllocsPerRun(100, func() { fn(many) }); m > max(n, 8) {
				t.Errorf("%s allocates %v times for %v, and %v times for %v", name, n, few, m, many)
			}
		}
	}
}
