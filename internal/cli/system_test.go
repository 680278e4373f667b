package cli

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/shmtest"
)

const mountinfo = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
25 22 0:23 / /dev/shm rw,nosuid,nodev - tmpfs old rw,size=1k
30 25 0:27 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs shm rw,size=65536k,huge=advise
31 22 0:28 / /mnt/two\040words ro,relatime - tmpfs t rw
32 22 0:29 / /run/user rw - tmpfs t rw
broken line
`

func TestMounts(t *testing.T) {
	a := &app{root: fixture(t, map[string]string{"proc/self/mountinfo": mountinfo})}
	mounts := a.mounts()
	if len(mounts) != 4 {
		t.Errorf("%d mounts, want 4: %v", len(mounts), mounts)
	}
	for dir, want := range map[string]string{
		"/dev/shm": "/dev/shm", "/dev/shm/sub": "/dev/shm", "/dev/shmoo": "/", "/mnt/two words/x": "/mnt/two words", "/": "/",
	} {
		if got := mountOf(mounts, dir); got.point != want {
			t.Errorf("%s lies on %q, want %q", dir, got.point, want)
		}
	}
	shm := mountOf(mounts, "/dev/shm")
	if v, ok := shm.option("size"); !ok || v != "65536k" {
		t.Errorf("size=%s, %v: not the mount on top", v, ok)
	}
	if _, ok := shm.option("ro"); ok {
		t.Error("/dev/shm is not read-only")
	}
	if _, ok := mountOf(mounts, "/mnt/two words").option("ro"); !ok {
		t.Error("the mount is read-only, though its file system is not")
	}
}

func TestSegments(t *testing.T) {
	a := &app{root: fixture(t, map[string]string{"proc/sysvipc/shm": `       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap
         0      32768   600               4194304  1234  1240      2  1000  1000  1000  1000 1700000000          0 1700000000               8192                  4096
1234567890      32769   666                  4096    77     0      0     0     0     0     0          0          0 1700000000                  0                     0
`})}
	want := []segment{{32768, 4194304, 12288, 1234, 2, 1000}, {32769, 4096, 0, 77, 0, 0}}
	if got := a.segments(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := (&app{root: shmtest.TempDir(t)}).segments(); got == nil || len(got) != 0 {
		t.Errorf("a system without segments has %v, want an empty list", got)
	}
}

func TestLimits(t *testing.T) {
	a := &app{root: fixture(t, map[string]string{"proc/self/limits": `Limit                     Soft Limit           Hard Limit           Units     
Max file size             unlimited            unlimited            bytes     
Max open files            256                  524288               files     
`})}
	if n, ok := a.limit("Max open files"); !ok || n != 256 {
		t.Errorf("%d, %v", n, ok)
	}
	if _, ok := a.limit("Max file size"); ok {
		t.Error("unlimited is no limit")
	}
	if _, ok := a.limit("Max"); ok {
		t.Error("there is no such limit")
	}
}

func TestRemovesIPC(t *testing.T) {
	const running = "run/systemd/system/x"
	for _, c := range []struct {
		name    string
		files   map[string]string
		removes bool
		where   string
	}{
		{"another init", map[string]string{"etc/systemd/logind.conf": "[Login]\nRemoveIPC=yes\n"}, false, ""},
		{"the default", map[string]string{running: ""}, true, ""},
		{"a comment", map[string]string{running: "", "etc/systemd/logind.conf": "[Login]\n#RemoveIPC=no\n"}, true, ""},
		{"off", map[string]string{running: "", "etc/systemd/logind.conf": "[Login]\nRemoveIPC = no\n"}, false, "/etc/systemd/logind.conf"},
		{"another section", map[string]string{running: "", "etc/systemd/logind.conf": "[Other]\nRemoveIPC=no\n"}, true, ""},
		{"a drop-in wins", map[string]string{running: "",
			"etc/systemd/logind.conf": "[Login]\nRemoveIPC=yes\n", "etc/systemd/logind.conf.d/shm.conf": "[Login]\nRemoveIPC=no\n"}, false, "/etc/systemd/logind.conf.d/shm.conf"},
		{"the last drop-in wins, wherever it is", map[string]string{running: "",
			"etc/systemd/logind.conf.d/10.conf": "[Login]\nRemoveIPC=no\n", "usr/lib/systemd/logind.conf.d/20.conf": "[Login]\nRemoveIPC=yes\n"}, true, "/usr/lib/systemd/logind.conf.d/20.conf"},
		{"etc hides the vendor's", map[string]string{running: "",
			"etc/systemd/logind.conf.d/10.conf": "[Login]\nRemoveIPC=no\n", "usr/lib/systemd/logind.conf.d/10.conf": "[Login]\nRemoveIPC=yes\n"}, false, "/etc/systemd/logind.conf.d/10.conf"},
		{"the vendor's main file", map[string]string{running: "", "usr/lib/systemd/logind.conf": "[Login]\nRemoveIPC=no\n"}, false, "/usr/lib/systemd/logind.conf"},
	} {
		a := &app{root: fixture(t, c.files)}
		if removes, where := a.removesIPC(); removes != c.removes || where != c.where {
			t.Errorf("%s: %v in %q, want %v in %q", c.name, removes, where, c.removes, c.where)
		}
	}
}

func TestReconcile(t *testing.T) {
	d := dfDoc{
		Used:    usedDoc{All: 100, Blocks: 50, Others: 10, Held: 30},
		Machine: machineDoc{All: 1000, Here: 100, Memfds: 200, SysV: 300, Shared: 150, Mounts: 50},
	}
	d.reconcile(true)
	if d.Used.Unexplained != 10 || d.Machine.Unexplained != 200 {
		t.Errorf("unexplained %d and %d, want 10 and 200", d.Used.Unexplained, d.Machine.Unexplained)
	}
	// A folder on a disk, on a machine that does not say how much it shares.
	d = dfDoc{Used: usedDoc{All: 100}}
	d.reconcile(false)
	if d.Used.Unexplained != 0 || d.Machine.Unexplained != 0 {
		t.Errorf("unexplained %d and %d, want none", d.Used.Unexplained, d.Machine.Unexplained)
	}
}

func TestRoom(t *testing.T) {
	const gib = 1 << 30
	a := &app{root: fixture(t, map[string]string{"proc/meminfo": "MemTotal: 16777216 kB\nSwapTotal: 1048576 kB\n"})}
	for _, c := range []struct {
		size  int64
		level string
		text  string
	}{
		{8 * gib, levelOK, "/dev/shm has 8.0 GiB"},
		{16 * gib, levelOK, "/dev/shm has 16.0 GiB"},
		{64 << 20, levelTodo, "too small for most data: it is what containers get"},
		{1 * gib, levelTodo, "little beside the machine's 16.0 GiB"},
		{32 * gib, levelTodo, "promises 32.0 GiB"},
		{0, levelTodo, "has no limit"},
	} {
		e := &examination{a: a}
		e.room("/dev/shm", mem.Space{Size: c.size, Free: c.size, InMemory: true}, a.meminfo()["MemTotal"])
		if got := findings(e, c.level); len(e.list) != 1 || !strings.Contains(got, c.text) {
			t.Errorf("size %d: %+v, want %s %q", c.size, e.list, c.level, c.text)
		}
	}
}

// A made-up machine on which everything is wrong.
func TestDoctor(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("there is little to examine on other systems")
	}
	dir := privateDir(t)
	root := fixture(t, map[string]string{
		"proc/self/mountinfo":                              "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:27 / /dev/shm ro - tmpfs shm rw,huge=never\n",
		"proc/self/limits":                                 "Max open files 64 64 files\nMax file size 4096 4096 bytes\nMax address space 1048576 1048576 bytes\n",
		"proc/sys/vm/max_map_count":                        "1000\n",
		"run/systemd/system/x":                             "",
		"sys/kernel/mm/transparent_hugepage/shmem_enabled": "always within_size advise never [deny] force\n",
		"proc/meminfo":                                     "MemTotal: 1024 kB\nMemAvailable: 512 kB\n",
		"proc/self/cgroup":                                 "4:memory:/job\n0::/\n",
	})
	e := &examination{a: &app{root: root}, uid: firstUser}
	if !e.place(dir) {
		t.Fatalf("%s is there: %+v", dir, e.list)
	}
	e.size(dir)
	e.permissions(dir)
	e.removeIPC("")
	e.hugePages(dir)
	e.processLimits()
	todo := findings(e, levelTodo)
	for _, want := range []string{
		"permissions: " + dir + " has mode 0700", "chmod 1777",
		"RemoveIPC: systemd removes all blocks", "logind.conf.d",
		"64 files open", "ulimit -n", "ulimit -f", "vm.max_map_count=",
	} {
		if !strings.Contains(todo, want) {
			t.Errorf("no finding %q in\n%s", want, todo)
		}
	}
	if strings.HasPrefix(dir, "/dev/shm") {
		// Whether it is too large for the made-up memory or small for any depends on
		// the real one.
		for _, want := range []string{"is mounted read-only", "size: " + dir} {
			if !strings.Contains(todo, want) {
				t.Errorf("no finding %q in\n%s", want, todo)
			}
		}
	}
	notes := findings(e, levelNote)
	for _, want := range []string{"huge pages are off", "shmem_enabled deny", "ulimit -v"} {
		if !strings.Contains(notes, want) {
			t.Errorf("no note %q in\n%s", want, notes)
		}
	}

	e = &examination{a: &app{root: root}}
	if e.place(filepath.Join(dir, "missing")) || !strings.Contains(findings(e, levelTodo), "mkdir") {
		t.Errorf("a missing folder: %+v", e.list)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if e.place(file) {
		t.Error("a file is no place")
	}
	// A system user's blocks stay, whatever systemd does.
	e = &examination{a: &app{root: root}, uid: firstUser - 1}
	e.removeIPC("")
	if findings(e, levelTodo) != "" {
		t.Errorf("a system user: %+v", e.list)
	}
}

// Control groups of both versions that allow less than /dev/shm promises.
func TestDoctorCgroups(t *testing.T) {
	dir := privateDir(t)
	if !strings.HasPrefix(dir, "/dev/shm") {
		t.Skip("no memory file system here")
	}
	for version, files := range map[string]map[string]string{
		"v1": {
			"proc/self/cgroup":                               "5:cpu:/\n4:memory:/job\n",
			"proc/self/mountinfo":                            "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
			"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1048576\n",
			"sys/fs/cgroup/memory/job/memory.usage_in_bytes": "4096\n",
		},
		"v2": {
			"proc/self/cgroup":                 "0::/job\n",
			"proc/self/mountinfo":              "35 31 0:32 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/job/memory.max":     "1048576\n",
			"sys/fs/cgroup/job/memory.current": "4096\n",
		},
	} {
		a := &app{root: fixture(t, files)}
		e := &examination{a: a}
		e.size(dir)
		if got := findings(e, levelTodo); !strings.Contains(got, "allows 1.0 MiB of memory") {
			t.Errorf("%s: no word of the group's limit in %+v", version, e.list)
		}
		doc, err := a.account("")
		if err != nil {
			t.Fatal(err)
		}
		if len(doc.Limits) != 1 || doc.Limits[0].Max != 1<<20 || doc.Limits[0].Used != 4096 {
			t.Errorf("%s: df shows the limits %+v", version, doc.Limits)
		}
	}
}
