package cli

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/api/kbs"
	"github.com/cofferproject/coffer/api/seal"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/owner/run"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// NewSecretCommand keeps secrets in the trustee.
func NewSecretCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "secret",
		Short: "Keep secrets in the trustee and say which sealed pod may have them",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSecretPut(), newSecretBind(), newSecretRotate(), newSecretLs(), newSecretHistory(), newSecretRollback(), newSecretExpire(), newSecretUndelete(), newSecretRm(),
		newSecretMap(), newSecretMapped(), newSecretUnmap(), newSecretStores())
	return cmd
}

// secretFlags are what the secret commands have in common.
type secretFlags struct {
	trustee   run.TrusteeOptions
	namespace string
}

func (f *secretFlags) add(cmd *cobra.Command) {
	addTrusteeFlags(cmd, &f.trustee)
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "namespace of the trustee (default: the one that fits, if there is only one)")
}

// open connects to the trustee.
func (f *secretFlags) open(cmd *cobra.Command) (*run.Trustee, error) {
	return openTrustee(cmd, f.trustee)
}

func openTrustee(cmd *cobra.Command, o run.TrusteeOptions) (*run.Trustee, error) {
	t, err := run.OpenTrustee(cmd.Context(), o, func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), "coffer: "+s) })
	return t, runError(err)
}

func newSecretPut() *cobra.Command {
	var f secretFlags
	var seals []string
	var source secretSource
	var meta versionFlags
	cmd := &cobra.Command{
		Use:   "put NAME --for SEAL [--from-file FILE | --generate BYTES]",
		Short: "Store a secret and bind it to a sealed pod",
		Long: `Store a secret under NAME (repository/type/tag, or kbs:///repository/type/tag)
and bind it to a seal: the trustee gives it only to a TEE that has proven that it
runs the pod so sealed. A secret that is there already gets a new version, and
keeps the seals it was bound to.

SEAL is the id that coffer seal prints, the beginning of it, or a file with the
seal. Without --for the secret is stored, and nobody gets it until it is bound.
With --generate nobody sees the secret, not even whoever runs this: it is that many
random bytes, in base64url.`,
		Example: `  coffer secret put default/db/password --for 3f9a... --from-file password.txt
  printf %s "$PASSWORD" | coffer secret put default/db/password --for web.seal
  coffer secret put default/volumes/data --for web.seal --generate 32`,
		Args: exactArgs(1, "the secret's name: repository/type/tag"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := meta.options(time.Now())
			if err != nil {
				return Exit(ExitUsage, err)
			}
			secret, err := source.read(cmd)
			if err != nil {
				return err
			}
			defer clear(secret)
			t, err := f.open(cmd)
			if err != nil {
				return err
			}
			defer t.Release()
			return putSecret(cmd, t.Client, f.namespace, args[0], seals, secret, *o)
		},
	}
	f.add(cmd)
	meta.add(cmd)
	cmd.Flags().StringArrayVar(&seals, "for", nil, "seal of the pod that may have the secret: id, beginning of the id, or file (repeatable)")
	source.add(cmd)
	return cmd
}

// secretSource is where a secret comes from: a file, or chance.
type secretSource struct {
	from     string
	generate int
}

// maxGenerated bounds --generate, in bytes.
const maxGenerated = 4096

func (s *secretSource) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.from, "from-file", "-", "file with the secret, every byte of it; - is standard input")
	cmd.Flags().IntVar(&s.generate, "generate", 0, "make a secret of so many random bytes")
	cmd.MarkFlagsMutuallyExclusive("from-file", "generate")
}

// read gives the secret, which the caller clears.
func (s *secretSource) read(cmd *cobra.Command) ([]byte, error) {
	switch {
	case s.generate < 0 || s.generate > maxGenerated:
		return nil, Exit(ExitUsage, fmt.Errorf("--generate: %d is not between 1 and %d bytes", s.generate, maxGenerated))
	case s.generate > 0:
		raw := make([]byte, s.generate)
		defer clear(raw)
		rand.Read(raw)
		return base64.RawURLEncoding.AppendEncode(nil, raw), nil
	}
	secret, err := readSecret(s.from, cmd.InOrStdin())
	if err != nil {
		return nil, Exit(ExitInput, err)
	}
	return secret, nil
}

func readSecret(from string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("reading secret: %w", err)
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, kbs.MaxResource+1))
	if err != nil {
		return nil, fmt.Errorf("reading secret: %w", err)
	}
	switch {
	case len(b) > kbs.MaxResource:
		return nil, fmt.Errorf("reading secret: more than %d bytes", kbs.MaxResource)
	case len(b) == 0:
		return nil, errors.New("reading secret: it is empty")
	}
	return b, nil
}

func putSecret(cmd *cobra.Command, c *trusteeclient.Client, namespace, name string, seals []string, secret []byte, o trusteeclient.PutOptions) error {
	ctx := cmd.Context()
	n, ids, err := findSeals(ctx, c, namespace, seals)
	if err != nil {
		return Exit(ExitInput, err)
	}
	r, err := n.PutVersion(ctx, name, secret, o)
	if err != nil {
		return err
	}
	if len(ids) > 0 {
		if r.Binding, err = n.Bind(ctx, r.Name, trusteeapi.Binding{Seals: ids}); err != nil {
			return err
		}
	}
	if Output(cmd) == "json" {
		return PrintJSON(cmd.OutOrStdout(), map[string]any{"namespace": n.Name(), "uri": "kbs:///" + r.Name, "resource": r})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "kbs:///%s version %d (namespace %s)\n", r.Name, r.Version, n.Name())
	if len(ids) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "coffer: the secret is bound to no seal by this command; only pods it was bound to before can have it")
	}
	return nil
}

// findSeals resolves what --for says to ids, all in one namespace.
func findSeals(ctx context.Context, c *trusteeclient.Client, namespace string, seals []string) (*trusteeclient.Namespaced, []string, error) {
	if len(seals) == 0 {
		if namespace == "" {
			return nil, nil, errors.New("no --for, so --namespace must say where to store the secret")
		}
		return c.Namespace(namespace), nil, nil
	}
	var names []string
	if namespace != "" {
		names = []string{namespace}
	} else {
		all, err := c.ListNamespaces(ctx)
		if err != nil {
			return nil, nil, err
		}
		for _, n := range all {
			names = append(names, n.Name)
		}
	}
	wanted := make([]string, len(seals))
	for i, s := range seals {
		var err error
		if wanted[i], err = sealID(s); err != nil {
			return nil, nil, err
		}
	}
	var found *trusteeclient.Namespaced
	var ids []string
	for _, name := range names {
		n := c.Namespace(name)
		have, err := n.ListSeals(ctx)
		if err != nil {
			return nil, nil, err
		}
		got, err := matchSeals(wanted, have)
		if err != nil {
			return nil, nil, err
		}
		if got == nil {
			continue
		}
		if found != nil {
			return nil, nil, fmt.Errorf("the seal is registered in namespaces %s and %s: choose one with --namespace", found.Name(), name)
		}
		found, ids = n, got
	}
	if found == nil {
		return nil, nil, fmt.Errorf("no namespace (%s) has the seal %s registered: coffer seal registers it", strings.Join(names, ", "), strings.Join(wanted, ", "))
	}
	return found, ids, nil
}

// sealID gives the id of a seal in a file, or what was typed.
func sealID(s string) (string, error) {
	b, err := os.ReadFile(s)
	if errors.Is(err, fs.ErrNotExist) {
		return strings.TrimPrefix(s, "sha256:"), nil
	}
	if err != nil {
		return "", fmt.Errorf("--for: %w", err)
	}
	parsed, err := seal.Parse(string(b))
	if err != nil {
		return "", fmt.Errorf("--for %s: %w", s, err)
	}
	return parsed.ID, nil
}

// matchSeals gives the full ids, or nil where one is not among those registered.
func matchSeals(wanted []string, have []trusteeapi.SealInfo) ([]string, error) {
	var ids []string
	for _, w := range wanted {
		id := ""
		for _, h := range have {
			if len(w) < 8 && w != h.ID || !strings.HasPrefix(h.ID, w) {
				continue
			}
			if id != "" {
				return nil, fmt.Errorf("--for %s: several seals begin so", w)
			}
			id = h.ID
		}
		if id == "" {
			return nil, nil
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func newSecretLs() *cobra.Command {
	var f secretFlags
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List secrets: name, version, size and what they are bound to, never their content",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			t, err := f.open(cmd)
			if err != nil {
				return err
			}
			defer t.Release()
			rows, err := listSecrets(cmd.Context(), t.Client, f.namespace)
			if err != nil {
				return err
			}
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), rows)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAMESPACE\tNAME\tVERSION\tBYTES\tMODIFIED\tSTATE\tBOUND TO")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\t%s\n", r.Namespace, r.Name, r.Version, r.Size, r.Modified.Local().Format(time.DateTime),
					state(r.Deleted, time.Time{}, r.Expires, time.Now()), boundTo(r.Binding))
			}
			return w.Flush()
		},
	}
	f.add(cmd)
	return cmd
}

// secretRow is one line of secret ls.
type secretRow struct {
	Namespace string `json:"namespace"`
	trusteeapi.Resource
}

func listSecrets(ctx context.Context, c *trusteeclient.Client, namespace string) ([]secretRow, error) {
	names := []string{namespace}
	if namespace == "" {
		all, err := c.ListNamespaces(ctx)
		if err != nil {
			return nil, err
		}
		names = nil
		for _, n := range all {
			names = append(names, n.Name)
		}
	}
	rows := []secretRow{}
	for _, n := range names {
		rs, err := c.Namespace(n).ListResources(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			rows = append(rows, secretRow{n, r})
		}
	}
	return rows, nil
}

func boundTo(b *trusteeapi.Binding) string {
	if b == nil || len(b.Seals)+len(b.Initdata) == 0 {
		return "nobody"
	}
	var out []string
	for _, s := range b.Seals {
		out = append(out, fmt.Sprintf("seal %.12s", s))
	}
	for _, d := range b.Initdata {
		out = append(out, fmt.Sprintf("initdata %.19s", d))
	}
	return strings.Join(out, ", ")
}

func newSecretRm() *cobra.Command {
	var version uint64
	var destroy bool
	cmd := onSecret("rm NAME", "Delete a secret with all its versions and its binding, or softly one version of it",
		func(cmd *cobra.Command, n *trusteeclient.Namespaced, name string) (any, error) {
			switch {
			case version == 0 && destroy:
				return nil, Exit(ExitUsage, errors.New("--destroy is for one --version; without it everything goes"))
			case version == 0:
				if err := n.DeleteResource(cmd.Context(), name); err != nil {
					return nil, err
				}
				return secretRemoved{n.Name(), name}, nil
			}
			change := trusteeapi.ChangeDelete
			if destroy {
				change = trusteeapi.ChangeDestroy
			}
			return secretDone{n.Name(), name, change, version}, n.ChangeVersion(cmd.Context(), name, version, change, time.Time{})
		})
	cmd.Flags().Uint64Var(&version, "version", 0, "delete this version only, so that coffer secret undelete can take it back")
	cmd.Flags().BoolVar(&destroy, "destroy", false, "with --version: its content goes for good")
	return cmd
}
