package main

import (
	"cmp"
	"context"
	"errors"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// trusted lists the targets whose input does not come from an unauthenticated
// peer, with where it comes from. Everything else gets the long time: a new
// target is taken for exposed until somebody says otherwise here.
var trusted = map[string]string{
	"trustee/provisioner.FuzzDecode":                   "an administrator, authenticated",
	"api/ovmf.FuzzReadAbilities":                       "the owner's own firmware, or the node's",
	"api/svid.FuzzDecodeX509":                          "the trustee, authenticated",
	"guest/keyholder.FuzzIdentityDocument":             "the trustee, authenticated",
	"api/refvalue.FuzzParse":                           "the administrator's bundles",
	"api/refvalue/corim.FuzzParse":                     "the administrator's manifests",
	"api/refvalue.FuzzParseSigned":                     "the administrator's bundles",
	"api/resource.FuzzParse":                           "the owner's own references",
	"host/cdi.FuzzParse":                               "the node's administrator and device plug-ins",
	"host/podresources.FuzzDecode":                     "the node's kubelet",
	"host/snapshot.FuzzFailedLayer":                    "containerd's events",
	"api/libos.FuzzParse":                              "the launcher's own processes",
	"host/supervise.FuzzRecord":                        "the launcher's own files",
	"host/vmm/qmp.FuzzDecode":                          "QEMU, started by us",
	"image/reference.FuzzParse":                        "the owner's pod",
	"image/registry.FuzzSources":                       "the owner's registry configuration",
	"owner/auditcheck.FuzzReceived":                    "the owner's own witness",
	"owner/auditcheck.FuzzWitness":                     "the owner's own file",
	"owner/guestimage/internal/bzimage.FuzzExtractELF": "Debian's kernel, pinned by its digest",
	"owner/pod.FuzzParse":                              "the user's file",
	"owner/seal.FuzzAnnotate":                          "the owner's pod",
	"tee/azure/sim.FuzzSend":                           "simulated hardware, started by us",
	"tee/cca/verifier.FuzzStores":                      "the administrator's anchors",
	"tee/collateral.FuzzParse":                         "the administrator's collateral",
	"tee/intel.FuzzQEIdentity":                         "the administrator's collateral",
	"tee/intel.FuzzTCBInfo":                            "the administrator's collateral",
	"tee/internal/crl.FuzzParse":                       "the administrator's collateral",
	"tee/internal/uefi.FuzzPE":                         "the owner's own kernel",
	"tee/internal/uefi.FuzzVolume":                     "the owner's own firmware",
	"tee/nvidia/rim.FuzzParse":                         "the administrator's collateral",
	"tee/policy.FuzzCompileResource":                   "an administrator of the trustee",
	"tee/se/measure.FuzzHostKeyHash":                   "the owner's own host key documents",
	"tee/se/measure.FuzzReadHeader":                    "the owner's own image",
	"tee/se/verifier.FuzzParseHostKeys":                "the administrator's anchors",
	"tee/sgx/measure.FuzzSGXS":                         "the owner's own enclave",
	"tee/sgx/measure.FuzzSigstruct":                    "the owner's own enclave's signature",
	"tee/snp/firmware.FuzzParse":                       "the owner's own firmware",
	"tee/tdx/measure.FuzzSections":                     "the owner's own firmware",
	"tee/tdx/measure.FuzzVariables":                    "the owner's own firmware",
	"tee/tpm/measure.FuzzFirmware":                     "the owner's own firmware and kernel",
	"trustee/remoteas.FuzzAnswer":                      "the attestation service that the owner has named",
	"trustee/remoteas.FuzzFiles":                       "the owner's own configuration",
	"trustee/session.FuzzAttested":                     "the trustee's own store",
	"trustee/kbsconfig.FuzzParse":                      "the owner's own configuration",
	"trustee/migrate.FuzzParseJSON":                    "the owner's own store",
	"trustee/oidc.FuzzDiscovered":                      "the identity provider that the owner has named",
	"trustee/oidc.FuzzIdentify":                        "the identity provider that the owner has named",
	"trustee/migrate.FuzzReply":                        "the owner's own store",
	"trustee/backup.FuzzReader":                        "backups, under the envelope key",
	"trustee/cloud/aws.FuzzMetadata":                   "the administrator's own machine",
	"trustee/cloud/azure.FuzzToken":                    "the administrator's own cloud",
	"trustee/keyservice/azurekms.FuzzParse":            "the owner's own envelope key file",
	"trustee/secretstore/aliyunkms.FuzzAnswer":         "the administrator's own store",
	"trustee/secretstore/awssm.FuzzAnswer":             "the administrator's own store",
	"trustee/secretstore/azurekv.FuzzAnswer":           "the administrator's own store",
	"trustee/secretstore/gcpsm.FuzzAnswer":             "the administrator's own store",
	"trustee/secretstore/vaultkv.FuzzAnswers":          "the administrator's own store",
}

const (
	longTime  = 10 * time.Minute
	shortTime = 2 * time.Minute
)

// target is one fuzz function.
type target struct {
	pkg     string // folder below the module's root
	fn      string
	changed bool
	time    time.Duration
}

func (t *target) name() string { return t.pkg + "." + t.fn }

func (t *target) kind() string {
	if from := trusted[t.name()]; from != "" {
		return from
	}
	return "unauthenticated peer"
}

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(\w+ \*testing\.F\)`)

// find reads the targets off the sources: listing them by the go command would
// compile every test first.
func find(root string) ([]*target, error) {
	var ts []*target
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (e.Name() == "testdata" || p != root && strings.HasPrefix(e.Name(), ".")) {
			return fs.SkipDir
		}
		if !strings.HasSuffix(p, "_test.go") {
			return nil
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		for _, m := range fuzzFunc.FindAllSubmatch(b, -1) {
			ts = append(ts, &target{pkg: filepath.ToSlash(rel), fn: string(m[1])})
		}
		return nil
	})
	slices.SortFunc(ts, func(a, b *target) int { return cmp.Compare(a.name(), b.name()) })
	return ts, err
}

func keep(ts []*target, want func(string) bool) []*target {
	return slices.DeleteFunc(ts, func(t *target) bool { return !want(t.name()) })
}

// turn is one target's time where all have a common one, changedTurn that of a target
// whose package has changed. A second, which is what the common time comes to for each
// of so many, finds nothing.
const (
	turn        = 2 * time.Second
	changedTurn = 6 * time.Second
	leastTurn   = time.Second // of a changed one among very many
)

// plan sets every target's time. With a common time changed packages go first, and
// the others from where seed points to: another part has its turn after each commit.
func plan(ts []*target, o options, seed string) {
	changed := 0
	for _, t := range ts {
		if t.changed {
			changed++
		}
	}
	for _, t := range ts {
		switch {
		case o.total > 0 && t.changed:
			t.time = max(leastTurn, min(changedTurn, o.total/time.Duration(2*changed)))
		case o.total > 0:
			t.time = turn
		case o.each > 0:
			t.time = o.each
		case trusted[t.name()] != "":
			t.time = shortTime
		default:
			t.time = longTime
		}
	}
	if o.total == 0 {
		return
	}
	slices.SortStableFunc(ts, func(a, b *target) int {
		return cmp.Or(-boolCompare(a.changed, b.changed), cmp.Compare(a.rank(seed), b.rank(seed)))
	})
}

// rank is the same for a package's targets and another one after each commit.
func (t *target) rank(seed string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, seed+" "+t.pkg)
	return h.Sum64()
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// head is the commit, or nothing where there is no history.
func head(ctx context.Context, root string) string {
	out, err := git(ctx, root, "rev-parse", "HEAD")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

// markChanged asks git which packages differ: from the last merge into main, or
// where there is none from the commit before.
func markChanged(ctx context.Context, root string, ts []*target) {
	base := "HEAD~1"
	for _, b := range []string{"origin/main", "main"} {
		out, err := git(ctx, root, "merge-base", "HEAD", b)
		head, herr := git(ctx, root, "rev-parse", "HEAD")
		if err == nil && herr == nil && out != head {
			base = strings.TrimSpace(out)
			break
		}
	}
	out, err := git(ctx, root, "diff", "--name-only", base)
	if err != nil {
		return // no history (a tarball): all the same
	}
	dirs := map[string]bool{}
	for l := range strings.Lines(out) {
		dirs[filepath.ToSlash(filepath.Dir(strings.TrimSpace(l)))] = true
	}
	for _, t := range ts {
		t.changed = dirs[t.pkg]
	}
}

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "safe.directory=*"}, args...)...)
	cmd.Dir = dir
	out, err := cmd.Output()
	return string(out), err
}

func moduleRoot() (string, error) {
	d, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; d != "/"; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
	}
	return "", errors.New("no go.mod here or above")
}
