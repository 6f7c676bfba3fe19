package run

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cofferproject/coffer/api/initdata"
	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/podpolicy"
	"github.com/cofferproject/coffer/api/trusteeapi"
	"github.com/cofferproject/coffer/image/registry"
	"github.com/cofferproject/coffer/owner/pod"
	"github.com/cofferproject/coffer/owner/seal"
	"github.com/cofferproject/coffer/owner/spec"
	"github.com/cofferproject/coffer/owner/trusteeclient"
)

// InputError says that a file given to coffer is wrong.
type InputError struct{ Err error }

func (e *InputError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *InputError) Unwrap() error { return e.Err }

// PodOptions are what seal and run have in common.
type PodOptions struct {
	File         string // pod manifest; "-": standard input
	TEE          launch.TEE
	Namespace    string // of the trustee; "": SimulatedNamespace, for hardware HardwareNamespace
	Platform     string // platform.json
	Debug        bool   // use the debug image
	Trustee      TrusteeOptions
	Images       ImageOptions
	AllowExec    bool // the host may start any command in any container
	HideLogs     bool // the host may not read the containers' output
	EventLog     bool // the guest records run-time events
	BindChannel  bool // the guest's evidence covers its connection to the trustee, or it gives none
	MemoryMiB    int
	VCPUs        int
	Devices      []string             // kinds of devices beside the CPU whose evidence the pod is sealed to
	Identities   []string             // SPIFFE identities that workloads may ask for
	Disks        map[string]spec.Disk // volumes on disks
	ImagesOnDisk int64                // bytes of the disk for images; 0: they are in memory
	Unregistered bool                 // seal: leave the trustee's records alone
}

// prepared is a pod ready to be started.
type prepared struct {
	pod      *pod.Pod
	policy   *podpolicy.Policy
	plan     *spec.Plan
	images   map[string]*spec.ResolvedImage
	document []byte // initdata
	digest   string // "sha256:<hex>", by the TEE's algorithm
	sealed   *seal.Sealed
	adopted  bool // document came with the manifest
	sealID   string
}

// loadPod reads the manifest.
func loadPod(file string) (*pod.Pod, error) {
	r := io.Reader(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, &InputError{err}
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, pod.MaxSize+1))
	if err != nil {
		return nil, &InputError{fmt.Errorf("reading %s: %w", file, err)}
	}
	p, err := pod.Parse(b)
	if err != nil {
		return nil, &InputError{fmt.Errorf("%s: %w", file, err)}
	}
	return p, nil
}

// loadPlatform reads platform.json and says what to do where there is none.
func loadPlatform(path string) (*platform.Platform, error) {
	p, err := platform.Load(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &InputError{fmt.Errorf("no guest image: %s does not exist; coffer guest build makes it", path)}
	}
	if err != nil {
		return nil, &InputError{err}
	}
	return p, nil
}

// prepare turns the pod into policy, plan and initdata. A manifest that carries
// initdata keeps it: that document, not one of ours, is what the owner sealed.
func prepare(ctx context.Context, p *pod.Pod, o *PodOptions, src *sources, t *Trustee) (*prepared, error) {
	annotation := p.Annotations[initdata.AnnotationKey]
	if annotation != "" {
		return adopt(ctx, p, o, src, t, annotation)
	}
	names := map[string]string{}
	for _, c := range p.All() {
		names[c.Image] = c.Image
	}
	images, err := src.resolve(ctx, names)
	if err != nil {
		return nil, err
	}
	policy, plan, err := spec.Build(p, images, o.spec(nil, nil))
	if err == nil {
		err = errors.Join(checkProcess(o, plan), checkVolumes(o, policy))
	}
	if err != nil {
		return nil, &InputError{err}
	}
	set, err := settings(o, src, t)
	if err != nil {
		return nil, err
	}
	alg, err := initdata.AlgorithmFor(o.TEE.Wire())
	if err != nil {
		return nil, &InputError{err}
	}
	sealed, err := seal.Make(policy, set, seal.Algorithms{alg})
	if err != nil {
		return nil, &InputError{err}
	}
	return &prepared{
		pod: p, policy: policy, plan: plan, images: images, sealed: sealed,
		document: sealed.Documents[alg], digest: string(alg) + ":" + sealed.Digests[string(alg)],
	}, nil
}

// adopt takes the initdata of a sealed manifest. The plan is built from the
// manifest with the sealed images; where the two differ the guest will deny, so
// a difference is an error here, where it can be explained.
func adopt(ctx context.Context, p *pod.Pod, o *PodOptions, src *sources, t *Trustee, annotation string) (*prepared, error) {
	r, err := reopen(ctx, p, o, src, annotation)
	if err != nil {
		return nil, err
	}
	d := r.parsed
	if err := demands(d, o); err != nil {
		return nil, &InputError{err}
	}
	if note := foreignTrustee(d, o, src, t); note != "" {
		r.plan.Notes = append(r.plan.Notes, note)
	}
	if err := d.CheckAlgorithm(o.TEE.Wire()); err != nil {
		return nil, &InputError{fmt.Errorf("metadata.annotations[%s]: %w: seal the pod for this TEE (coffer seal --tee %s)", initdata.AnnotationKey, err, o.TEE)}
	}
	sum, err := initdata.Digest(d.Algorithm, r.document)
	if err != nil {
		return nil, &InputError{err}
	}
	return &prepared{
		pod: p, policy: r.policy, plan: r.plan, images: r.images, document: r.document,
		digest: string(d.Algorithm) + ":" + hex.EncodeToString(sum), adopted: true,
	}, nil
}

// reopened is a sealed manifest, found to be what was sealed.
type reopened struct {
	document []byte
	parsed   *initdata.Document
	policy   *podpolicy.Policy
	plan     *spec.Plan
	images   map[string]*spec.ResolvedImage
}

func reopen(ctx context.Context, p *pod.Pod, o *PodOptions, src *sources, annotation string) (*reopened, error) {
	doc, err := initdata.DecodeAnnotation(annotation)
	if err != nil {
		return nil, &InputError{fmt.Errorf("metadata.annotations[%s]: %w", initdata.AnnotationKey, err)}
	}
	d, err := initdata.Parse(doc)
	if err != nil {
		return nil, &InputError{fmt.Errorf("metadata.annotations[%s]: %w", initdata.AnnotationKey, err)}
	}
	raw, ok := d.Data[podpolicy.DataKey]
	if !ok {
		return nil, &InputError{fmt.Errorf("metadata.annotations[%s]: no %s: Coffer's guest starts nothing without a pod policy", initdata.AnnotationKey, podpolicy.DataKey)}
	}
	sealedPolicy, err := podpolicy.Parse([]byte(raw))
	if err != nil {
		return nil, &InputError{fmt.Errorf("the sealed pod policy: %w", err)}
	}
	byName := map[string]*podpolicy.Container{}
	for i := range sealedPolicy.InitContainers {
		byName[sealedPolicy.InitContainers[i].Name] = &sealedPolicy.InitContainers[i]
	}
	for i := range sealedPolicy.Containers {
		byName[sealedPolicy.Containers[i].Name] = &sealedPolicy.Containers[i]
	}
	names := map[string]string{}
	for _, c := range p.All() {
		sc := byName[c.Name]
		if sc == nil {
			return nil, &InputError{fmt.Errorf("%s.name: the sealed policy has no container %q: seal the pod again", c.Path, c.Name)}
		}
		names[c.Image] = sc.Image
	}
	images, err := src.resolve(ctx, names)
	if err != nil {
		return nil, err
	}
	policy, plan, err := spec.Build(p, images, o.spec(byName, sealedPolicy.Disks()))
	if err == nil {
		err = errors.Join(checkProcess(o, plan), checkVolumes(o, policy))
	}
	if err != nil {
		return nil, &InputError{err}
	}
	again, err := podpolicy.Encode(policy)
	if err != nil {
		return nil, &InputError{err}
	}
	if !bytes.Equal(again, []byte(raw)) {
		return nil, &InputError{errors.New("the manifest was changed after it was sealed: its containers are not those of the sealed policy; seal it again (coffer seal)")}
	}
	return &reopened{document: doc, parsed: d, policy: policy, plan: plan, images: images}, nil
}

// demands reports whether a sealed document has all of these that the user asks for:
// evidence of kinds of devices and of the channel, and identities. It must not be left out
// because the pod was sealed so.
func demands(d *initdata.Document, o *PodOptions) error {
	list, err := d.AdditionalDevices()
	if err != nil {
		return fmt.Errorf("metadata.annotations[%s]: %w", initdata.AnnotationKey, err)
	}
	for _, k := range o.Devices {
		if !slices.Contains(list, k) {
			return fmt.Errorf("the pod was sealed without demanding evidence of device %.40q: seal it again (coffer seal --attest-device)", k)
		}
	}
	if !o.BindChannel && len(o.Identities) == 0 {
		return nil
	}
	aa, err := d.AA()
	if err != nil {
		return fmt.Errorf("metadata.annotations[%s]: %w", initdata.AnnotationKey, err)
	}
	if aa == nil {
		aa = new(initdata.AAConfig)
	}
	if o.BindChannel && !aa.BindChannel {
		return errors.New("the pod was sealed without binding its evidence to the channel: seal it again (coffer seal --bind-channel)")
	}
	for _, n := range o.Identities {
		if !slices.Contains(aa.Identities, n) {
			return fmt.Errorf("the pod was sealed without identity %.40q: seal it again (coffer seal --identity)", n)
		}
	}
	return nil
}

// HardwareNamespace is where pods of TEE hardware attest unless another one is named.
const HardwareNamespace = "default"

// namespace gives the trustee's namespace in which the pod attests.
func (o *PodOptions) namespace() string {
	switch {
	case o.Namespace != "":
		return o.Namespace
	case o.TEE.Simulated():
		return SimulatedNamespace
	}
	return HardwareNamespace
}

// variant gives the guest image to run in.
func (o *PodOptions) variant() string {
	switch {
	case o.TEE.Simulated() && o.Debug:
		return platform.SimDebug
	case o.TEE.Simulated():
		return platform.Sim
	case o.Debug:
		return platform.Debug
	default:
		return platform.Release
	}
}

// vouches reports whether the trustee is told to expect this image. Of a debug
// image that is safe only where the evidence says which image it is of, as a TPM's
// event log does: a launch digest does not, so the trustee would take it for a
// release and give it secrets.
func (o *PodOptions) vouches() bool { return !o.Debug || o.TEE.Wire() == "tpm" }

// foreignTrustee says where a sealed pod will ask for its secrets, if not at the
// trustee in use: what is registered here does not help it then.
func foreignTrustee(d *initdata.Document, o *PodOptions, src *sources, t *Trustee) string {
	url, cert, ok, err := d.KBS()
	if err != nil || !ok {
		return ""
	}
	ours, err := settings(o, src, t)
	switch {
	case err != nil:
		return ""
	case url != ours.KBSURL:
		return fmt.Sprintf("the pod is sealed for the trustee at %s, not for the one in use (%s)", url, ours.KBSURL)
	case strings.TrimSpace(cert) != strings.TrimSpace(ours.KBSCert):
		return fmt.Sprintf("the pod is sealed for another trustee that was at %s: its CA is not that of the one in use", url)
	}
	return ""
}

// spec gives the options for spec.Build; those of a sealed pod are the sealed
// policy's.
func (o *PodOptions) spec(sealed map[string]*podpolicy.Container, disks []*podpolicy.Volume) spec.Options {
	out := spec.Options{MemoryMiB: o.MemoryMiB, VCPUs: o.VCPUs, Disks: o.Disks, ImagesOnDisk: o.ImagesOnDisk}
	if sealed != nil {
		out.Disks, out.ImagesOnDisk = map[string]spec.Disk{}, 0
		for _, v := range disks {
			if v.Name == podpolicy.ImagesVolume {
				out.ImagesOnDisk = v.SizeLimit
				continue
			}
			out.Disks[v.Name] = spec.Disk{Key: v.Key, Sealing: v.Sealing, New: v.New, Bytes: v.SizeLimit}
		}
		out.Exec, out.HideLogs = map[string][]podpolicy.Exec{}, map[string]bool{}
		for name, c := range sealed {
			out.Exec[name], out.HideLogs[name] = c.Exec, !c.Logs
		}
		return out
	}
	if o.AllowExec {
		out.Exec = map[string][]podpolicy.Exec{"": {{Any: true, TTY: true}}}
	}
	if o.HideLogs {
		out.HideLogs = map[string]bool{"": true}
	}
	return out
}

// settings gives what the guest must know: trustee and registries, as the guest
// reaches them.
func settings(o *PodOptions, src *sources, t *Trustee) (seal.Settings, error) {
	url, err := forGuest(t.Client.Namespace(o.namespace()).KBSURL(""))
	if err != nil {
		return seal.Settings{}, err
	}
	s := seal.Settings{KBSURL: url, KBSCert: t.CAPEM, Devices: o.Devices, EventLog: o.EventLog, BindChannel: o.BindChannel, Identities: o.Identities}
	s.Image.ExtraRootCertificates = src.roots
	s.Image.AuthenticatedRegistryCredentialsURI = o.Images.GuestAuthURI
	if rc := registryConfig(src.guestConf()); rc != nil {
		s.Image.RegistryConfig = rc
	}
	return s, nil
}

// registryConfig puts a registry configuration into initdata's form.
func registryConfig(c registry.Conf) *initdata.RegistryConfig {
	if len(c.Registries) == 0 {
		return nil
	}
	out := &initdata.RegistryConfig{UnqualifiedSearchRegistries: c.UnqualifiedSearch}
	for _, r := range c.Registries {
		x := initdata.Registry{Prefix: r.Prefix, Location: r.Location, Insecure: r.Insecure, Blocked: r.Blocked}
		for _, m := range r.Mirrors {
			x.Mirror = append(x.Mirror, initdata.Mirror{Location: m.Location, Insecure: m.Insecure})
		}
		out.Registry = append(out.Registry, x)
	}
	return out
}

// register tells the trustee what it must know to let the pod attest: the
// platform's reference values and, for a pod of ours, the owner's key and seal.
func (p *prepared) register(ctx context.Context, o *PodOptions, pf *platform.Platform, ns *trusteeclient.Namespaced, t *Trustee, progress func(string)) error {
	if _, err := t.Client.CreateNamespace(ctx, trusteeapi.Namespace{Name: ns.Name(), Simulated: o.TEE.Simulated(), InsecureAllowDebug: false}); err != nil {
		return fmt.Errorf("registering with the trustee: %w", err)
	}
	if o.vouches() {
		name, doc, err := p.references(o, pf)
		if err != nil {
			return &InputError{err}
		}
		if _, err := ns.RegisterReferenceValues(ctx, name, doc); err != nil {
			return fmt.Errorf("registering reference values with the trustee: %w", err)
		}
	}
	if p.adopted {
		return nil // its seal was registered when it was made
	}
	key, made, err := seal.OwnerKey("")
	if err != nil {
		return &InputError{err}
	}
	if made {
		progress("made the owner's key: its signature is what binds secrets to pods from now on")
	}
	if _, err := ns.AddOwnerKey(ctx, "owner", key.Public()); err != nil && !trusteeclient.IsConflict(err) {
		return fmt.Errorf("registering the owner's key with the trustee: %w", err)
	}
	s, err := p.sealed.Sign(p.pod, p.images, nil, key, time.Now())
	if err != nil {
		return err
	}
	info, err := ns.RegisterSeal(ctx, s.Raw)
	if err != nil {
		return fmt.Errorf("registering the seal with the trustee: %w", err)
	}
	p.sealID = info.ID
	return nil
}
