package cli

import (
	"context"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// The lines that info prints open the block in every Python, and it is still
// there afterwards.
func TestInfoPython(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*shmtest.Patience)
	defer cancel()
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			name, dir := shmtest.Name(t), privateDir(t)
			for _, where := range [][]string{nil, {"--dir", dir}} {
				if status, _, errs := run(t, "hello", append(where, "put", name)...); status != 0 {
					t.Fatal(errs)
				}
				_, program, errs := run(t, "", append(where, "info", "--python", name)...)
				if errs != "" {
					t.Fatal(errs)
				}
				program += "\nassert bytes(data) == b'hello', bytes(data)\ndata[0] = ord('j')\ndata.release()\n"
				if where == nil {
					program += "block.close()\n"
				}
				cmd := py.Cmd(ctx, "-c", program)
				if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
					t.Errorf("%v\n%s\nfrom\n%s", err, out, program)
				}
				if status, out, errs := run(t, "", append(where, "cat", name)...); status != 0 || out != "jello" {
					t.Errorf("afterwards: %d %q %s", status, out, errs)
				}
				if status, _, errs := run(t, "", append(where, "rm", name)...); status != 0 {
					t.Error(errs)
				}
			}
		})
	}
}

// Each kind of content has lines of its own.
func TestPythonKinds(t *testing.T) {
	for kind, want := range map[string]string{"": "np.frombuffer", "text": "np.frombuffer", "list": "ShareableList(name=\"x\\ny\")", "npy": "np.lib.format"} {
		var w strings.Builder
		pythonLines(&w, shm.Info{Name: "x\ny", Size: 100, Kind: kind, Inode: 1}, nil)
		if !strings.Contains(w.String(), want) {
			t.Errorf("%q: no %s in\n%s", kind, want, w.String())
		}
		for line := range strings.Lines(w.String()) {
			if strings.HasPrefix(line, "y") {
				t.Errorf("%q: the name breaks out of its line:\n%s", kind, w.String())
			}
		}
	}
}
