package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/manager"
)

func init() { verbs = append(verbs, newServe) }

// serveFlags are the flags of serve.
type serveFlags struct {
	address, metrics string
	key              keyFlags
	createKey        bool
}

func newServe(a *app) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a manager of blocks, for Go and Python's SharedMemoryManager",
		Long: `Run a manager until a signal or a client ends it, and say how to connect to it:
Python's SharedMemoryManager, Go's package manager and shm manager can. It owns
the blocks that they create through it, and removes them at its end. A second
signal ends it at once; the next shm prune then removes them.

Without --address it listens at a Unix socket that only this user can reach. At
tcp:host:port other users and machines can knock as well: without the key they
get nothing, but what is said is not encrypted.

` + keyHelp + `
Without any key there is a new one in a file of its own, which goes when the
manager ends. With --create-key, FILE is made if it is not there, and stays.

--metrics serves figures for Prometheus at http://ADDR/metrics, for this machine
unless ADDR has a host.`,
		Example: `  shm serve
  shm serve --address unix:/run/me/socket --authkey-file key --create-key
  SHM_AUTHKEY=$(pass show shm) shm serve --address tcp:127.0.0.1:5000 --metrics :9464`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), &f) },
	}
	cmd.SetFlagErrorFunc(noKeyFlag)
	flags := cmd.Flags()
	flags.StringVar(&f.address, "address", "", "listen at `ADDR`: unix:/path, unix:@name (Linux) or tcp:host:port")
	f.key.add(flags)
	flags.BoolVar(&f.createKey, "create-key", false, "make the file of --authkey-file with a new key, if it is not there")
	flags.StringVar(&f.metrics, "metrics", "", "serve Prometheus metrics at `ADDR`: port, :port or host:port")
	return cmd
}

// serveDoc is what serve writes when it is ready.
type serveDoc struct {
	Address     string `json:"address"`
	AuthKeyFile string `json:"authkey_file,omitempty"`
	AuthKeyEnv  string `json:"authkey_env,omitempty"`
	Dir         string `json:"dir,omitempty"`
	Metrics     string `json:"metrics,omitempty"`
	PID         int    `json:"pid"`
	Python      string `json:"python,omitempty"`
}

// servedDoc is what it writes at its end.
type servedDoc struct {
	Removed int      `json:"removed"`
	Missing []string `json:"missing"`
}

func (a *app) serve(ctx context.Context, f *serveFlags) error {
	dir, err := a.place()
	if err != nil {
		return err
	}
	opts := manager.Options{Address: f.address, Dir: string(dir)}
	key, remove, err := f.keyToServe(&opts)
	if err != nil {
		return err
	}
	defer remove()
	opts.AuthKey = key.bytes

	figures := newFigures()
	opts.Conn.Refused = figures.refuse
	doc := serveDoc{Dir: opts.Dir, AuthKeyEnv: key.env, PID: os.Getpid()}
	if key.file != "" {
		doc.AuthKeyFile = absolute(key.file)
	}
	var listener net.Listener
	if f.metrics != "" {
		if listener, err = listenMetrics(f.metrics); err != nil {
			return err
		}
		defer listener.Close()
		doc.Metrics = "http://" + listener.Addr().String() + "/metrics"
	}

	ctx, cancel := context.WithCancelCause(ctx)
	var m *manager.Manager
	var web sync.WaitGroup
	defer func() { cancel(nil); web.Wait() }()
	err = manager.Serve(ctx, &opts, func(ready *manager.Manager) {
		m = ready
		if listener != nil {
			server := figures.server(m)
			context.AfterFunc(ctx, func() { _ = server.Close() })
			web.Go(func() {
				if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
					fmt.Fprintln(a.stderr, "note: there are no metrics any more:", oneLine(err.Error()))
				}
			})
		}
		doc.Address = clientAddress(m.Address())
		if opts.Dir == "" { // Python knows no other place
			doc.Python = pythonConnect(doc.Address, key)
		}
		if err := a.printReady(&doc, key); err != nil {
			cancel(err) // it is of no use if nobody learns where it is
		}
	})
	if m == nil {
		return f.explain(err)
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	s, _ := m.Stats()
	if err != nil && (len(s.Missing) == 0 || !errors.Is(err, fs.ErrNotExist) || errors.Is(err, os.ErrClosed)) {
		return err // more than that blocks were missing
	}
	return a.printServed(s)
}

// keyToServe returns the key of the flags, or makes one. remove removes what is
// not to stay. A socket for which the user had no wish goes to the same place
// as a new key.
func (f *serveFlags) keyToServe(opts *manager.Options) (key authKey, remove func(), err error) {
	remove = func() {}
	if f.createKey {
		if f.key.file == "" {
			return key, remove, usageError{errors.New("--create-key makes the file of --authkey-file, and that is missing"), "shm serve --create-key --authkey-file FILE"}
		}
		if err := createKeyFile(f.key.file); err != nil && !errors.Is(err, fs.ErrExist) {
			return key, remove, hint(err, "ls -ld %s", shellQuote(filepath.Dir(f.key.file)))
		}
	}
	key, err = f.key.read()
	switch {
	case errors.Is(err, errNoKey):
	case errors.Is(err, fs.ErrNotExist):
		return key, remove, hint(err, "shm serve --create-key --authkey-file %s", shellQuote(f.key.file))
	default:
		return key, remove, err
	}
	parent := os.TempDir()
	if len(parent) > 60 && runtime.GOOS != "windows" {
		parent = "/tmp" // the name of a socket has room for some 100 bytes
	}
	home, err := os.MkdirTemp(parent, "shm-") // mode 0700
	if err != nil {
		return key, remove, err
	}
	own := keyFlags{file: filepath.Join(home, "authkey")}
	remove = func() {
		_ = os.Remove(own.file)
		_ = os.Remove(home) // stays if somebody has put something there
	}
	if err = createKeyFile(own.file); err == nil {
		key, err = own.read()
	}
	if err != nil {
		remove()
		return key, func() {}, err
	}
	if opts.Address == "" && runtime.GOOS != "windows" {
		opts.Address = "unix:" + filepath.Join(home, "socket")
	}
	return key, remove, nil
}

// explain puts an error of listening in terms of the flags.
func (f *serveFlags) explain(err error) error {
	path := strings.TrimPrefix(f.address, "unix:")
	switch {
	case errors.Is(err, conn.ErrAddress):
		return usageError{err, addressForms}
	case errors.Is(err, fs.ErrExist):
		return hint(err, "shm manager ls --address %s   (is one running?)", shellQuote(f.address))
	case errors.Is(err, syscall.EADDRINUSE):
		return hint(fmt.Errorf("%s is in use", printable(f.address)), "shm manager ls --address %s   (is one running?)", shellQuote(f.address))
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return hint(err, "ls -ld %s", shellQuote(filepath.Dir(path)))
	}
	return err
}

// absolute is a path that means the same in other directories.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// clientAddress is where clients on this machine find a server that listens at
// address.
func clientAddress(address string) string {
	if path, ok := strings.CutPrefix(address, "unix:"); ok && path[0] != '@' {
		// Sockets have short names. What is too long stays as it is.
		if abs := absolute(path); len(abs) <= 100 {
			path = abs
		}
		return "unix:" + path
	}
	if at, err := netip.ParseAddrPort(strings.TrimPrefix(address, "tcp:")); err == nil && at.Addr().IsUnspecified() {
		return "tcp:127.0.0.1:" + strconv.Itoa(int(at.Port()))
	}
	return address
}

// pythonConnect returns the lines that connect a Python program, "" if none can.
func pythonConnect(address string, key authKey) string {
	at, err := conn.PythonAddress(address)
	if err != nil {
		return ""
	}
	var text string
	switch at := at.(type) {
	case string:
		text = layout.PyRepr(at)
	case []byte:
		text = layout.PyReprBytes(at)
	case conn.Tuple:
		host, _ := at[0].(string)
		if strings.Contains(host, ":") {
			return "" // it knows no IPv6
		}
		text = fmt.Sprintf("(%s, %d)", layout.PyRepr(host), at[1])
	}
	imports, from := "", "open("+layout.PyRepr(absolute(key.file))+", 'rb').read()"
	if key.env != "" {
		imports, from = "import os\n", "os.fsencode(os.environ["+layout.PyRepr(key.env)+"])"
	}
	return imports + "from multiprocessing.managers import SharedMemoryManager\n" +
		"manager = SharedMemoryManager(address=" + text + ", authkey=" + from + `.rstrip(b'\r\n'))` + "\n" +
		"manager.connect()\n"
}

// goConnect returns the lines for a Go program.
func goConnect(address string, key authKey) string {
	read := "key, err := os.ReadFile(" + strconv.Quote(absolute(key.file)) + ")\n"
	if key.env != "" {
		read = "key := []byte(os.Getenv(" + strconv.Quote(key.env) + "))\n"
	}
	return read + "m, err := manager.Connect(ctx, " + strconv.Quote(address) + `, bytes.TrimRight(key, "\r\n"))` + "\n"
}

// printReady says how to connect, in one write: whoever reads it has all of it.
func (a *app) printReady(doc *serveDoc, key authKey) error {
	var w strings.Builder
	if a.json {
		e := json.NewEncoder(&w)
		e.SetEscapeHTML(false)
		if err := e.Encode(doc); err != nil {
			return err
		}
		_, err := io.WriteString(a.stdout, w.String())
		return err
	}
	row := func(name, text string) {
		fmt.Fprintf(&w, "%s %s\n", a.paint(bold, fmt.Sprintf("%-8s", name+":")), printable(text))
	}
	head := func(text string) { fmt.Fprintf(&w, "\n%s\n", a.paint(dim, text)) }
	row("address", doc.Address)
	row("key", cmp.Or(doc.AuthKeyFile, "$"+doc.AuthKeyEnv))
	if doc.Metrics != "" {
		row("metrics", doc.Metrics)
	}
	switch {
	case doc.Dir != "":
		head("# Python looks for blocks in the system's place only, not in " + printable(doc.Dir))
	case doc.Python == "":
		head("# Python cannot connect: it knows no such addresses. tcp:127.0.0.1:port it does.")
	default:
		head("# Python")
		w.WriteString(doc.Python)
	}
	head("// Go")
	w.WriteString(goConnect(doc.Address, key))
	head("# Shell; also create, track, release and shutdown")
	fmt.Fprintf(&w, "shm manager ls%s --address %s%s\n\n", a.placeFlags(), shellQuote(doc.Address), key.flags())
	fmt.Fprintln(&w, "^C ends it and removes its blocks.")
	_, err := io.WriteString(a.stdout, w.String())
	return err
}

// printServed says what has become of the blocks.
func (a *app) printServed(s manager.Stats) error {
	doc := servedDoc{s.Removed, append([]string{}, s.Missing...)}
	if n := len(doc.Missing); n > 0 {
		const most = 20
		var names []string
		for _, name := range doc.Missing[:min(n, most)] {
			names = append(names, printable(name))
		}
		if n > most {
			names = append(names, fmt.Sprintf("and %d more", n-most))
		}
		fmt.Fprintf(a.stderr, "note: gone before, or another's by now: %s\n", strings.Join(names, ", "))
	}
	if a.json {
		return json.NewEncoder(a.stdout).Encode(doc)
	}
	text := "ended; there were no blocks to remove"
	switch {
	case doc.Removed == 1:
		text = "ended; 1 block removed"
	case doc.Removed > 1:
		text = fmt.Sprintf("ended; %d blocks removed", doc.Removed)
	}
	_, err := fmt.Fprintln(a.stdout, text)
	return err
}

// listenMetrics opens the address of --metrics, on this machine alone if it has
// no host.
func listenMetrics(address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = "", address
	}
	if _, perr := strconv.ParseUint(port, 10, 16); perr != nil {
		return nil, usageError{fmt.Errorf("--metrics %q has no port", address), "--metrics :9464"}
	}
	l, err := net.Listen("tcp", net.JoinHostPort(cmp.Or(host, "127.0.0.1"), port))
	if err != nil {
		err = hint(fmt.Errorf("metrics: %w", err), "--metrics :0   (takes a free port)")
	}
	return l, err
}

// figures are the metrics. What the server counts is asked for with each scrape.
type figures struct {
	refused  *prometheus.CounterVec
	registry *prometheus.Registry
}

// reasons tell why a peer was refused, in the order in which they are tried.
var reasons = []struct {
	name string
	err  error
}{
	{"timeout", os.ErrDeadlineExceeded},
	{"busy", conn.ErrBusy},
	{"size", conn.ErrTooLarge},
	{"frame", conn.ErrFrame},
	{"auth", conn.ErrAuth},
	{"hangup", io.ErrUnexpectedEOF},
	{"hangup", syscall.ECONNRESET},
	{"hangup", syscall.EPIPE},
}

const otherReason = "other"

func newFigures() *figures {
	f := &figures{
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "shm_manager_handshakes_refused_total",
			Help: "Peers that did not get in, by reason: auth, busy, frame, hangup, size, timeout, other.",
		}, []string{"reason"}),
		registry: prometheus.NewPedanticRegistry(),
	}
	// A counter that appears with its first count has no increase to see.
	for _, r := range reasons {
		f.refused.WithLabelValues(r.name)
	}
	f.refused.WithLabelValues(otherReason)
	return f
}

// refuse is conn.Options.Refused.
func (f *figures) refuse(_ net.Addr, err error) {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			f.refused.WithLabelValues(r.name).Inc()
			return
		}
	}
	f.refused.WithLabelValues(otherReason).Inc()
}

// server returns an HTTP server of the metrics.
func (f *figures) server(m *manager.Manager) *http.Server {
	f.registry.MustRegister(f.refused, statsCollector{m},
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewGoCollector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(f.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // strangers are not to write here
	}
}

// statsCollector makes metrics of manager.Stats.
type statsCollector struct{ m *manager.Manager }

var (
	blocksDesc   = prometheus.NewDesc("shm_manager_blocks", "Blocks that the manager tracks.", nil, nil)
	bytesDesc    = prometheus.NewDesc("shm_manager_bytes", "Bytes in them.", nil, nil)
	connsDesc    = prometheus.NewDesc("shm_manager_connections", "Authenticated connections now.", nil, nil)
	acceptedDesc = prometheus.NewDesc("shm_manager_connections_total", "Authenticated connections so far.", nil, nil)
	requestsDesc = prometheus.NewDesc("shm_manager_requests_total", `Requests by method; "unknown", "invalid" and "object" for what is none.`, []string{"method"}, nil)
)

func (c statsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{blocksDesc, bytesDesc, connsDesc, acceptedDesc, requestsDesc} {
		ch <- d
	}
}

func (c statsCollector) Collect(ch chan<- prometheus.Metric) {
	s, _ := c.m.Stats()
	send := func(d *prometheus.Desc, t prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, t, v, labels...)
	}
	send(blocksDesc, prometheus.GaugeValue, float64(s.Blocks))
	send(bytesDesc, prometheus.GaugeValue, float64(s.Bytes))
	send(connsDesc, prometheus.GaugeValue, float64(s.Conns))
	send(acceptedDesc, prometheus.CounterValue, float64(s.Accepted))
	for method, n := range s.Requests {
		send(requestsDesc, prometheus.CounterValue, float64(n), method)
	}
}
