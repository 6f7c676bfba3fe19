package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/cofferproject/coffer/owner/run"
)

func newSGXManifest() *cobra.Command {
	var o run.EnclaveOptions
	var size string
	var persist, images []string
	cmd := &cobra.Command{
		Use: "manifest POD --libos FILE --out DIR", Short: "Write Gramine's manifest for a container of a sealed pod", Args: exactArgs(1, "the sealed manifest"),
		Long: `Write into a new folder what Gramine needs to run one container of a sealed pod in an
enclave: container.manifest, which names every file by its SHA-256, and the files: the
image's under every name that a program can open (links included), the volumes', and the
library OS. Arguments, environment, user and folder are the sealed policy's; memory and
threads follow the limits. Files of an encrypted image are not written: its tree is
encrypted, with a key that the enclave is handed under the name coffer_image.

What an enclave cannot keep (exec, hidden output, values that the host says, memory shared
by containers) is refused with the field's name. What the policy only lets the host add
(variables of services, a service account) is left out, with a note.

--persist keeps an emptyDir over restarts, encrypted with a key of the processor that only
this enclave has (mrenclave) or every enclave of its signer (mrsigner), or with a key that
the enclave is handed under a name.

Never run on SGX. The manifest is no template: gramine-sgx-sign takes it as it is.

Exit codes: 0 written; 120 the pod, the container or a file does not fit an enclave; 121 the
image cannot be had; 2 a flag is wrong. After an error the folder is not there.`,
		Example: "  coffer sgx manifest sealed.yaml --container app --libos libsysdb.so --runtime runtime/glibc --out app.enclave\n" +
			"  coffer sgx manifest sealed.yaml --libos libsysdb.so --persist data=mrenclave --out app.enclave --output json",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.File = args[0]
			for flag, v := range map[string]string{"libos": o.LibOS, "out": o.Out} {
				if v == "" {
					return Exit(ExitUsage, fmt.Errorf("--%s is missing", flag))
				}
			}
			f := podFlags{images: images}
			if err := f.localImages(); err != nil {
				return err
			}
			o.Images.Local = f.opts.Images.Local
			o.Persist = map[string]string{}
			for _, s := range persist {
				volume, key, ok := strings.Cut(s, "=")
				if !ok || volume == "" || key == "" || o.Persist[volume] != "" {
					return Exit(ExitUsage, fmt.Errorf("--persist %q: write VOLUME=mrenclave, VOLUME=mrsigner or VOLUME=NAME of a key, each volume once", s))
				}
				o.Persist[volume] = key
			}
			if size != "" {
				q, err := resource.ParseQuantity(size)
				if err != nil {
					return Exit(ExitUsage, fmt.Errorf("--enclave-size %q: %w", size, err))
				}
				o.EnclaveBytes = q.Value()
			}
			e, err := run.WriteEnclave(cmd.Context(), &o, func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), "coffer: "+s) })
			if err != nil {
				return runError(err)
			}
			if Output(cmd) == "json" {
				return PrintJSON(cmd.OutOrStdout(), e)
			}
			for _, n := range e.Notes {
				fmt.Fprintln(cmd.ErrOrStderr(), "coffer: "+n)
			}
			files := fmt.Sprintf("%d files by digest", e.Files)
			if e.Encrypted {
				files += ", the image's encrypted"
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: container %s of %s, %s, %s of memory, %d threads\n", e.Manifest, e.Container, e.Pod, files, e.EnclaveSize, e.MaxThreads)
			return nil
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&o.Container, "container", "", "the container's `name` (default: the pod's only one)")
	fl.StringVar(&o.LibOS, "libos", "", "library OS `file` of Gramine (libsysdb.so)")
	fl.StringVar(&o.Runtime, "runtime", "", "`folder` with Gramine's C library and loader (default: the image's own are used)")
	fl.StringVar(&o.Out, "out", "", "`folder` to make")
	fl.StringArrayVar(&persist, "persist", nil, "keep an emptyDir: `VOLUME=KEY` (repeatable)")
	fl.StringVar(&size, "enclave-size", "", "memory of the enclave, a power of two such as 1Gi (default: the memory limit and 128 MiB, rounded up)")
	fl.IntVar(&o.Threads, "threads", 0, "threads at a time (default: 16 for each CPU of the limit, and 4)")
	fl.Uint16Var(&o.ProductID, "isv-prod-id", 0, "signer's number of the product")
	fl.Uint16Var(&o.SVN, "isv-svn", 0, "signer's security version of it")
	fl.StringArrayVar(&images, "image", nil, "take an image from disk, as for coffer run (repeatable)")
	fl.StringVar(&o.Images.RegistriesFile, "registries", "", "registries.conf (version 2): mirrors, insecure registries")
	fl.StringArrayVar(&o.Images.CAFiles, "registry-ca", nil, "PEM file with the CA of a private registry (repeatable)")
	fl.StringVar(&o.Images.AuthFile, "registry-auth-file", "", "auth.json for the registry")
	return cmd
}
