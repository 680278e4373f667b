package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// What df and doctor read of the system, all of it text in /proc, /sys and
// /etc. A file that is not there is a system without what it describes, and
// reads as empty.

// sys returns where a file of the machine is.
func (a *app) sys(path string) string {
	if a.root == "" {
		return path
	}
	return filepath.Join(a.root, path)
}

func (a *app) read(path string) string {
	text, _ := os.ReadFile(a.sys(path))
	return string(text)
}

// process is the folder in /proc of whom the flags mean: us, or --pid's.
func (a *app) process() string {
	if a.pid != 0 {
		return "/proc/" + strconv.Itoa(a.pid)
	}
	return "/proc/self"
}

// mount is a line of mountinfo.
type mount struct {
	point, kind string
	options     []string // of the mount and of its file system
}

// option returns the value of an option "name=value", and whether it is there;
// an option without a value has "".
func (m mount) option(name string) (string, bool) {
	for _, o := range m.options {
		if key, v, _ := strings.Cut(o, "="); key == name {
			return v, true
		}
	}
	return "", false
}

// mounts returns what is mounted where the process looks, without what is
// mounted over.
func (a *app) mounts() []mount {
	var list []mount
	for line := range strings.Lines(a.read(a.process() + "/mountinfo")) {
		// 36 35 0:26 / /dev/shm rw,nosuid,nodev shared:3 - tmpfs shm rw,size=65536k
		head, tail, ok := strings.Cut(strings.TrimSpace(line), " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 6 || len(t) < 3 {
			continue
		}
		m := mount{unescapeMount(h[4]), t[0], append(strings.Split(h[5], ","), strings.Split(t[2], ",")...)}
		list = slices.DeleteFunc(list, func(old mount) bool { return old.point == m.point })
		list = append(list, m)
	}
	return list
}

var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// mountOf returns the mount that a directory lies on.
func mountOf(mounts []mount, dir string) (best mount) {
	for _, m := range mounts {
		if dir == m.point || m.point == "/" || strings.HasPrefix(dir, m.point+"/") {
			if len(m.point) >= len(best.point) {
				best = m
			}
		}
	}
	return best
}

// meminfo returns the lines of /proc/meminfo in bytes.
func (a *app) meminfo() map[string]int64 {
	values := map[string]int64{}
	for line := range strings.Lines(a.read("/proc/meminfo")) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			continue
		}
		if len(f) > 2 && f[2] == "kB" {
			n <<= 10
		}
		values[strings.TrimSuffix(f[0], ":")] = n
	}
	return values
}

// segment is a System V shared memory segment of our IPC namespace.
type segment struct {
	ID       int64 `json:"id"`
	Size     int64 `json:"size"`
	Resident int64 `json:"resident"` // and in swap
	Creator  int64 `json:"creator"`  // PID
	Attached int64 `json:"attached"` // times
	UID      int64 `json:"uid"`
}

// segments reads /proc/sysvipc/shm, whose first line names the columns.
func (a *app) segments() []segment {
	list := []segment{}
	var head []string
	for line := range strings.Lines(a.read("/proc/sysvipc/shm")) {
		f := strings.Fields(line)
		if head == nil {
			head = f
			continue
		}
		field := func(name string) int64 {
			i := slices.Index(head, name)
			if i < 0 || i >= len(f) {
				return 0
			}
			n, _ := strconv.ParseInt(f[i], 10, 64)
			return n
		}
		list = append(list, segment{field("shmid"), field("size"), field("rss") + field("swap"), field("cpid"), field("nattch"), field("uid")})
	}
	return list
}

// limit returns the soft limit of that name in /proc/PID/limits; ok is false if
// there is none.
func (a *app) limit(name string) (n int64, ok bool) {
	for line := range strings.Lines(a.read(a.process() + "/limits")) {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			f := strings.Fields(rest)
			if len(f) == 0 {
				return 0, false
			}
			n, err := strconv.ParseInt(f[0], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// removesIPC says whether systemd removes the shared memory of a user who logs
// out, which is its default, and in which file that was said, if any.
func (a *app) removesIPC() (removes bool, where string) {
	if _, err := os.Stat(a.sys("/run/systemd/system")); err != nil {
		return false, "" // another init
	}
	// First the main file, of which the one in /etc hides the vendor's; then
	// the drop-ins of all folders together in the order of their names, where of
	// two with one name again the one in /etc counts.
	var files []string
	for _, dir := range []string{"/etc", "/run", "/usr/local/lib", "/usr/lib"} {
		if _, err := os.Stat(a.sys(dir + "/systemd/logind.conf")); err == nil {
			files = append(files, dir+"/systemd/logind.conf")
			break
		}
	}
	dropIns := map[string]string{}
	for _, dir := range []string{"/usr/lib", "/usr/local/lib", "/run", "/etc"} {
		dir += "/systemd/logind.conf.d"
		entries, _ := os.ReadDir(a.sys(dir))
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".conf") {
				dropIns[e.Name()] = dir + "/" + e.Name()
			}
		}
	}
	names := make([]string, 0, len(dropIns))
	for name := range dropIns {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		files = append(files, dropIns[name])
	}

	removes = true
	for _, f := range files {
		section := ""
		for line := range strings.Lines(a.read(f)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "[") {
				section = line
			}
			key, v, ok := strings.Cut(line, "=")
			if !ok || section != "[Login]" || strings.TrimSpace(key) != "RemoveIPC" {
				continue
			}
			switch strings.ToLower(strings.TrimSpace(v)) {
			case "no", "false", "off", "0", "n", "f":
				removes, where = false, f
			case "yes", "true", "on", "1", "y", "t":
				removes, where = true, f
			case "":
				removes, where = true, "" // an empty value is the default
			}
		}
	}
	return removes, where
}
