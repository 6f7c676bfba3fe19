package cli

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// versionFlags say more about a new version of a secret.
type versionFlags struct {
	expires string
	labels  []string
}

func (f *versionFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.expires, "expires", "", "when nobody gets this version any more: RFC 3339, or a time from now such as 720h")
	cmd.Flags().StringArrayVar(&f.labels, "label", nil, "name=value to keep with the version (repeatable)")
}

func (f *versionFlags) options(now time.Time) (*trusteeclient.PutOptions, error) {
	o := &trusteeclient.PutOptions{}
	var err error
	if f.expires != "" {
		if o.Expires, err = when(f.expires, now); err != nil {
			return nil, fmt.Errorf("--expires: %w", err)
		}
	}
	for _, l := range f.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok {
			return nil, fmt.Errorf("--label %q is not name=value", l)
		}
		if o.Labels == nil {
			o.Labels = map[string]string{}
		}
		o.Labels[k] = v
	}
	if err := trusteeapi.CheckLabels(o.Labels); err != nil {
		return nil, fmt.Errorf("--label: %w", err)
	}
	return o, nil
}

// when reads a time, or how long until then.
func when(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		if d < 0 {
			return time.Time{}, fmt.Errorf("%s lies in the past", s)
		}
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither a time as 2026-12-31T00:00:00Z nor a duration as 720h", s)
	}
	return t, nil
}

// state is what a version is to those who ask for it.
func state(deleted, destroyed, expires, now time.Time) string {
	switch {
	case !destroyed.IsZero():
		return "destroyed"
	case !deleted.IsZero():
		return "deleted"
	case expires.IsZero():
		return "good"
	case !now.Before(expires):
		return "expired"
	}
	return "until " + expires.Local().Format(time.DateTime)
}

// secretRemoved says that a secret is gone with all its versions.
type secretRemoved struct {
	Namespace string `json:"namespace"`
	Name      string `json:"deleted"`
}

// String is the line for people.
func (r secretRemoved) String() string { return r.Name }

// secretDone says what was done to a version of a secret.
type secretDone struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Change    string `json:"change"`
	Version   uint64 `json:"version"`
}

// String is the line for people.
func (d secretDone) String() string {
	return fmt.Sprintf("kbs:///%s version %d: %s (namespace %s)", d.Name, d.Version, d.Change, d.Namespace)
}

// onSecret makes a command on one secret that exists, in whichever namespace.
func onSecret(use, short string, do func(cmd *cobra.Command, n *trusteeclient.Namespaced, name string) (any, error)) *cobra.Command {
	var f secretFlags
	cmd := &cobra.Command{Use: use, Short: short, Args: exactArgs(1, "the secret's name: repository/type/tag"), RunE: func(cmd *cobra.Command, args []string) error {
		name := strings.TrimPrefix(args[0], "kbs:///")
		t, err := f.open(cmd)
		if err != nil {
			return err
		}
		defer t.Release()
		rows, err := listSecrets(cmd.Context(), t.Client, f.namespace)
		if err != nil {
			return err
		}
		var in []string
		for _, r := range rows {
			if r.Name == name {
				in = append(in, r.Namespace)
			}
		}
		switch len(in) {
		case 0:
			return Exit(ExitInput, fmt.Errorf("no secret %q", name))
		case 1:
		default:
			return Exit(ExitInput, fmt.Errorf("secret %q is in namespaces %s: choose one with --namespace", name, strings.Join(in, " and ")))
		}
		out, err := do(cmd, t.Client.Namespace(in[0]), name)
		if err != nil {
			return err
		}
		return printAnswer(cmd, out)
	}}
	f.add(cmd)
	return cmd
}

func newSecretHistory() *cobra.Command {
	return onSecret("history NAME", "List a secret's versions, the newest first", func(cmd *cobra.Command, n *trusteeclient.Namespaced, name string) (any, error) {
		h, err := n.History(cmd.Context(), name)
		if err != nil {
			return nil, err
		}
		t := table{head: []string{"VERSION", "BYTES", "CREATED", "STATE", "LABELS", "BY"}, doc: h}
		for _, v := range h.Versions {
			var labels []string
			for _, k := range slices.Sorted(maps.Keys(v.Labels)) {
				labels = append(labels, k+"="+v.Labels[k])
			}
			by := fmt.Sprintf("%.12s", v.Actor)
			if v.RestoredFrom != 0 {
				by += fmt.Sprintf(" (version %d again)", v.RestoredFrom)
			}
			t.rows = append(t.rows, []string{
				strconv.FormatUint(v.Version, 10), strconv.Itoa(v.Size), day(v.Created), state(v.Deleted, v.Destroyed, v.Expires, time.Now()), strings.Join(labels, ","), by,
			})
		}
		return t, nil
	})
}

func newSecretRotate() *cobra.Command {
	var source secretSource
	var grace time.Duration
	var meta versionFlags
	cmd := onSecret("rotate NAME [--from-file FILE | --generate BYTES] [--grace TIME]", "Store the next version of a secret, and have the older ones expire",
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, name string) (any, error) {
			now := time.Now()
			o, err := meta.options(now)
			if err != nil {
				return nil, Exit(ExitUsage, err)
			}
			if grace < 0 {
				return nil, Exit(ExitUsage, errors.New("--grace is at least 0"))
			}
			h, err := n.History(cmd.Context(), name)
			if err != nil {
				return nil, err
			}
			o.ExpirePrevious, o.IfVersion = now.Add(grace), &h.Version
			secret, err := source.read(cmd)
			if err != nil {
				return nil, err
			}
			defer clear(secret)
			r, err := n.PutVersion(cmd.Context(), name, secret, *o)
			if err != nil {
				return nil, err
			}
			return secretDone{n.Name(), name, fmt.Sprintf("rotated, older versions until %s", day(o.ExpirePrevious)), r.Version}, nil
		})
	cmd.Long = `Store the next version of a secret; its binding stays. The older versions can be
had for the time of --grace by guests that ask for them by number, and then
expire. With --generate nobody sees the secret, not even whoever runs this: it is
that many random bytes, in base64url. If somebody else stores a version meanwhile,
nothing is changed.`
	meta.add(cmd)
	source.add(cmd)
	cmd.Flags().DurationVar(&grace, "grace", time.Hour, "how long the older versions can still be had")
	return cmd
}

// onVersion is onSecret for a change of one version.
func onVersion(use, short, change string) *cobra.Command {
	var version uint64
	cmd := onSecret(use, short, func(cmd *cobra.Command, n *trusteeclient.Namespaced, name string) (any, error) {
		return secretDone{n.Name(), name, change, version}, n.ChangeVersion(cmd.Context(), name, version, change, time.Time{})
	})
	cmd.Flags().Uint64Var(&version, "version", 0, "the version")
	if err := cmd.MarkFlagRequired("version"); err != nil {
		panic(err) // the flag is defined a line above
	}
	return cmd
}

func newSecretRollback() *cobra.Command {
	return onVersion("rollback NAME --version N", "Make the content of an older version the newest version", trusteeapi.ChangeRollback)
}

func newSecretUndelete() *cobra.Command {
	return onVersion("undelete NAME --version N", "Take back the deletion of a version", trusteeapi.ChangeUndelete)
}

func newSecretExpire() *cobra.Command {
	var version uint64
	var at string
	cmd := onSecret("expire NAME --version N --at TIME", "Set when nobody gets a version any more", func(cmd *cobra.Command, n *trusteeclient.Namespaced, name string) (any, error) {
		var t time.Time
		if at != "never" {
			var err error
			if t, err = when(at, time.Now()); err != nil {
				return nil, Exit(ExitUsage, fmt.Errorf("--at: %w", err))
			}
		}
		return secretDone{n.Name(), name, "expires " + day(t), version}, n.ChangeVersion(cmd.Context(), name, version, trusteeapi.ChangeExpiry, t)
	})
	cmd.Flags().Uint64Var(&version, "version", 0, "the version")
	cmd.Flags().StringVar(&at, "at", "", "RFC 3339, a time from now such as 720h, 0s for now, or never")
	for _, f := range []string{"version", "at"} {
		if err := cmd.MarkFlagRequired(f); err != nil {
			panic(err) // the flags are defined above
		}
	}
	return cmd
}
