// Command shm looks at, makes and clears away shared memory; "shm help" says
// how.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/sharedmem/shm/internal/cli"
	"github.com/sharedmem/shm/worker"
)

func main() {
	worker.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The second signal ends the process the hard way.
	context.AfterFunc(ctx, stop)
	// A reader that has gone shall be an error of the write, so that commands
	// clean up. Notify rather than Ignore, which children would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(cli.Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
