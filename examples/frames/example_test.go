package frames_test

import (
	"errors"
	"fmt"
	"image"
	"image/png"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) {
	shmtest.Sweep = func() { _, _ = shm.Prune() } // of the worker that is killed
	shmtest.Main(m)
}

func TestFrames(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("rings are for Linux only")
	}
	program := shmtest.Programs(t)
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			name, out := shmtest.Name(t), shmtest.TempDir(t)
			capture := shmtest.StartCommand(t, exec.Command(program("capture"), "-name", name, "-frames", "7", "-out", out))
			capture.Expect("7 frames for workers in " + name)
			worker := func(args ...string) *shmtest.Process {
				return shmtest.StartCommand(t, py.Cmd(t.Context(), append(append([]string{"worker.py"}, args...), name)...))
			}
			if status := worker("--crash").Wait(); status != -1 {
				t.Errorf("status %d of who is killed", status)
			}
			w := worker()
			for i, want := range []string{
				"bars.png: mean [127 127 127], from 0 to 255, for the second time", "ramp.ppm: mean [124 115 128], from 0 to 248", "sun.png: mean [57 105 113], from 30 to 250",
				"bars.png: mean [127 127 127], from 0 to 255", "ramp.ppm: mean [124 115 128], from 0 to 248", "sun.png: mean [57 105 113], from 30 to 250",
				"bars.png: mean [127 127 127], from 0 to 255",
			} {
				capture.Expect(fmt.Sprintf("frame %d, %s", i, want))
			}
			for _, p := range []*shmtest.Process{capture, w} {
				if status, stderr := p.WaitAll(); status != 0 || stderr != "" {
					t.Errorf("%v ends with %d: %s", p.Cmd.Args, status, stderr)
				}
			}
			// What came back is the picture, smaller.
			small, big := decode(t, filepath.Join(out, "2.png")), decode(t, "images/sun.png")
			if small.Bounds() != image.Rect(0, 0, 32, 24) {
				t.Fatal(small.Bounds())
			}
			for y := range 24 {
				for x := range 32 {
					_, g, _, _ := big.At(2*x, 2*y).RGBA()
					if got := small.(*image.Gray).GrayAt(x, y).Y; uint32(got) != g>>8 {
						t.Fatalf("at %d,%d: %d, not %d", x, y, got, g>>8)
					}
				}
			}
			for _, name := range []string{name, name + ".found"} {
				if _, err := shm.Stat(name); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s is still there: %v", name, err)
				}
			}
		})
	}
}

func decode(t *testing.T, path string) image.Image {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}
