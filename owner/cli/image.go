package cli

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/BurntSushi/toml"
	"github.com/spf13/cobra"

	"github.com/cofferproject/coffer/image/manifest"
	"github.com/cofferproject/coffer/owner/image"
)

const imageLocations = `SRC and DST are registry references (registry.example/app:1), oci:DIR[:TAG],
oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME].`

// NewImageCommand gives `coffer image`.
func NewImageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Encrypt, decrypt and inspect container images",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImageEncrypt(), newImageDecrypt(), newImageInspect(), newImageKeyProvider())
	return cmd
}

// imageFlags are common to the commands that read or write images.
type imageFlags struct {
	registries string
	cas        []string
	auth       string
	platform   string
	layers     []int
}

func (f *imageFlags) addAccess(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.registries, "registries", "", "registries.conf (version 2): mirrors, insecure registries")
	fl.StringArrayVar(&f.cas, "registry-ca", nil, "PEM file with the CA of a private registry (repeatable)")
	fl.StringVar(&f.auth, "registry-auth-file", "", "auth.json with credentials for registries")
}

func (f *imageFlags) addChoice(cmd *cobra.Command) {
	f.addAccess(cmd)
	cmd.Flags().StringVar(&f.platform, "platform", "", "only this platform of an image for several, such as linux/amd64")
	cmd.Flags().IntSliceVar(&f.layers, "layer", nil, "only these layers, counted from 0, or from -1 backwards")
}

func (f *imageFlags) access() (image.Access, error) {
	var a image.Access
	if f.registries != "" {
		md, err := toml.DecodeFile(f.registries, &a.Conf)
		if err != nil {
			return a, fmt.Errorf("--registries: %w", err)
		}
		if u := md.Undecoded(); len(u) > 0 {
			return a, fmt.Errorf("--registries %s: unknown key %s", f.registries, u[0])
		}
		if err := a.Conf.Check(); err != nil {
			return a, fmt.Errorf("--registries %s: %w", f.registries, err)
		}
	}
	for _, name := range f.cas {
		b, err := os.ReadFile(name)
		if err != nil {
			return a, fmt.Errorf("--registry-ca: %w", err)
		}
		a.Roots = append(a.Roots, string(b))
	}
	if f.auth != "" {
		b, err := os.ReadFile(f.auth)
		if err != nil {
			return a, fmt.Errorf("--registry-auth-file: %w", err)
		}
		a.Auth = b
	}
	return a, nil
}

// options turns the flags into what the image package takes.
func (f *imageFlags) options(progress io.Writer) (image.Options, error) {
	o := image.Options{Layers: f.layers, Progress: progress}
	var err error
	if o.Access, err = f.access(); err != nil {
		return o, Exit(ExitInput, err)
	}
	if f.platform != "" {
		p, err := manifest.ParsePlatform(f.platform)
		if err != nil {
			return o, Exit(ExitUsage, fmt.Errorf("--platform: %w", err))
		}
		o.Platform = &p
	}
	return o, nil
}

func locations(args []string) (src, dst image.Location, err error) {
	if src, err = image.ParseLocation(args[0]); err != nil {
		return src, dst, Exit(ExitUsage, fmt.Errorf("SRC: %w", err))
	}
	if dst, err = image.ParseLocation(args[1]); err != nil {
		return src, dst, Exit(ExitUsage, fmt.Errorf("DST: %w", err))
	}
	return src, dst, nil
}

func newImageEncrypt() *cobra.Command {
	var f imageFlags
	var keyID, keyFile string
	cmd := &cobra.Command{
		Use:   "encrypt SRC DST --key-id kbs:///REPOSITORY/TYPE/TAG --key-file FILE",
		Short: "Encrypt an image's layers for a key in the trustee",
		Long: `Encrypt copies an image and encrypts its layers for one key: the guest gets that
key from the trustee after attestation, nobody else can read the layers. The
configuration (command, environment, labels) stays readable.

` + imageLocations + `
The key file holds 32 bytes. If there is none it is made, readable by you alone;
give it to the trustee with: coffer secret put REPOSITORY/TYPE/TAG --from-file FILE`,
		Args: exactArgs(2, "SRC and DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, dst, err := locations(args)
			if err != nil {
				return err
			}
			if keyID == "" || keyFile == "" {
				return Exit(ExitUsage, errors.New("--key-id and --key-file are needed: which key of the trustee's, and where your copy is"))
			}
			o, err := f.options(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			kek, made, err := image.MakeKey(keyFile)
			if err != nil {
				return Exit(ExitInput, err)
			}
			defer clear(kek)
			res, err := image.Encrypt(cmd.Context(), src, dst, keyID, kek, o)
			if err != nil {
				return Exit(ExitImage, err)
			}
			res.KeyFile, res.KeyMade = keyFile, made
			return printResult(cmd, res)
		},
	}
	f.addChoice(cmd)
	cmd.Flags().StringVar(&keyID, "key-id", "", "the key's resource URI: kbs:///REPOSITORY/TYPE/TAG")
	cmd.Flags().StringVar(&keyFile, "key-file", "", "file with the key, 32 bytes; made if absent")
	return cmd
}

func newImageDecrypt() *cobra.Command {
	var f imageFlags
	var k keyFlags
	cmd := &cobra.Command{
		Use:   "decrypt SRC DST --key-file FILE",
		Short: "Decrypt an image with your own copy of its key",
		Long: `Decrypt copies an image and decrypts its layers, whose content is checked
against the image's configuration.

` + imageLocations,
		Args: exactArgs(2, "SRC and DST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, dst, err := locations(args)
			if err != nil {
				return err
			}
			keys, err := k.keys()
			if err != nil {
				return err
			}
			if keys == nil {
				return Exit(ExitUsage, errors.New("--key-file or --keys is needed"))
			}
			o, err := f.options(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			res, err := image.Decrypt(cmd.Context(), src, dst, keys, o)
			if err != nil {
				return Exit(ExitImage, err)
			}
			return printResult(cmd, res)
		},
	}
	f.addChoice(cmd)
	k.add(cmd)
	return cmd
}

// keyFlags say where the owner's keys are.
type keyFlags struct{ file, dir, id string }

func (k *keyFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.file, "key-file", "", "file with the key, 32 bytes")
	cmd.Flags().StringVar(&k.dir, "keys", "", "folder with keys: DIR/REPOSITORY/TYPE/TAG")
	cmd.Flags().StringVar(&k.id, "key-id", "", "the id that --key-file is for (default: any)")
}

func (k *keyFlags) keys() (image.Keys, error) {
	switch {
	case k.file != "" && k.dir != "":
		return nil, Exit(ExitUsage, errors.New("--key-file and --keys: only one of them"))
	case k.dir != "":
		return image.DirKeys(k.dir), nil
	case k.file != "":
		return image.FileKey{ID: k.id, File: k.file}, nil
	}
	return nil, nil
}

func newImageInspect() *cobra.Command {
	var f imageFlags
	cmd := &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show an image's platforms, layers and the keys they are encrypted for",
		Args:  exactArgs(1, "an image"),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := image.ParseLocation(args[0])
			if err != nil {
				return Exit(ExitUsage, err)
			}
			a, err := f.access()
			if err != nil {
				return Exit(ExitInput, err)
			}
			info, err := image.Inspect(cmd.Context(), l, &a)
			if err != nil {
				return Exit(ExitImage, err)
			}
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), info)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s@%s\n", info.Image, info.Digest)
			return printStates(cmd.OutOrStdout(), info.Manifests)
		},
	}
	f.addAccess(cmd)
	return cmd
}

func newImageKeyProvider() *cobra.Command {
	var k keyFlags
	var socket string
	cmd := &cobra.Command{
		Use:   "keyprovider",
		Short: "Lend keys to skopeo and other tools over the ocicrypt key provider protocol",
		Long: `Keyprovider serves the ocicrypt key provider protocol over gRPC on a loopback
address until it is interrupted. Whoever can connect there can use the keys.

For skopeo set OCICRYPT_KEYPROVIDER_CONFIG to a file with
  {"key-providers":{"attestation-agent":{"grpc":"127.0.0.1:50000"}}}
and encrypt with
  skopeo copy --encryption-key provider:attestation-agent:keyid=kbs:///default/key/1 SRC DST`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			keys, err := k.keys()
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", socket)
			if err != nil {
				return Exit(ExitInput, fmt.Errorf("--socket: %w", err))
			}
			defer l.Close()
			fmt.Fprintf(cmd.OutOrStdout(), "listening on %s\n", l.Addr())
			p := &image.KeyProvider{Keys: keys, DefaultID: k.id, Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))}
			return Exit(ExitInput, p.Serve(cmd.Context(), l))
		},
	}
	cmd.Flags().StringVar(&socket, "socket", "127.0.0.1:50000", "loopback address to listen on")
	k.add(cmd)
	return cmd
}

func printResult(cmd *cobra.Command, r *image.Result) error {
	if Output(cmd) == "json" {
		return PrintJSON(cmd.OutOrStdout(), r)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s@%s\n", r.Image, r.Digest)
	if err := printStates(out, r.Manifests); err != nil {
		return err
	}
	if r.KeyMade {
		fmt.Fprintf(out, "new key %s for %s: give it to the trustee, keep a copy\n", r.KeyFile, r.KeyID)
	}
	return nil
}

func printStates(out io.Writer, list []image.ManifestState) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, m := range list {
		fmt.Fprintf(w, "%s\t%s\t\t\n", m.Platform, m.Digest)
		for i, l := range m.Layers {
			state := "plain"
			if l.Encrypted {
				state = "encrypted for " + strings.Join(l.KeyIDs, ", ")
			}
			fmt.Fprintf(w, "  layer %d\t%s\t%d KiB\t%s\n", i, l.DiffID, (l.Size+1023)/1024, state)
		}
	}
	return w.Flush()
}
