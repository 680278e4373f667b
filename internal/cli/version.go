package cli

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func init() { verbs = append(verbs, newVersion) }

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say which version this is",
		Example: "  shm version --json | jq -r .version",
		Args:    exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			doc := struct {
				Version  string `json:"version"`
				Go       string `json:"go"`
				System   string `json:"system"`
				Revision string `json:"revision,omitempty"`
				Time     string `json:"time,omitempty"`     // of the revision
				Modified bool   `json:"modified,omitempty"` // beyond the revision
			}{Go: runtime.Version(), System: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				doc.Version = info.Main.Version
				for _, s := range info.Settings {
					switch s.Key {
					case "vcs.revision":
						doc.Revision = s.Value
					case "vcs.time":
						doc.Time = s.Value
					case "vcs.modified":
						doc.Modified = s.Value == "true"
					}
				}
			}
			doc.Version = cmp.Or(doc.Version, "(devel)")
			if a.json {
				return a.writeJSON(doc)
			}
			text := fmt.Sprintf("shm %s, %s %s", doc.Version, doc.Go, doc.System)
			if doc.Revision != "" {
				text += ", revision " + doc.Revision + " of " + doc.Time
				if doc.Modified {
					text += " with changes"
				}
			}
			_, err := fmt.Fprintln(a.stdout, text)
			return err
		},
	}
}
