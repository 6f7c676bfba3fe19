package run

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/cofferproject/coffer/api/launch"
	"github.com/cofferproject/coffer/api/platform"
	"github.com/cofferproject/coffer/api/refvalue"
	"github.com/cofferproject/coffer/owner/measure"
)

// launchSpec says what to launch.
func (p *prepared) launchSpec(o *PodOptions, pf *platform.Platform) (*launch.Spec, error) {
	var s *launch.Spec
	var err error
	if o.TEE.Process() {
		s, err = processSpec(o, p.plan.MemoryMiB, p.plan.VCPUs)
	} else {
		s, err = pf.Spec(o.TEE, o.variant(), p.plan.MemoryMiB, p.plan.VCPUs)
	}
	if err != nil {
		return nil, &InputError{err}
	}
	s.Initdata = p.document
	if err := s.Validate(); err != nil {
		return nil, &InputError{err}
	}
	return s, nil
}

// references gives the reference values of the pod's TEE, and their name: for a
// TPM all sizes of the image, as it was built; else this very launch.
func (p *prepared) references(o *PodOptions, pf *platform.Platform) (name string, doc []byte, err error) {
	variant := o.variant()
	if o.TEE.Wire() == "tpm" {
		m, err := os.ReadFile(pf.Measurements)
		if err != nil {
			return "", nil, fmt.Errorf("reading the platform's measurements: %w", err)
		}
		bundle, err := refvalue.Parse(m)
		if err != nil {
			return "", nil, fmt.Errorf("%s: %w", pf.Measurements, err)
		}
		// Only the image that this pod runs in: the measurements of debug images are
		// in the file too, and a trustee that knows them lets them attest.
		if doc, err = bundle.Select(variant).Encode(); err != nil {
			return "", nil, fmt.Errorf("%s: %w", pf.Measurements, err)
		}
		return "coffer-guest-build-" + variant, doc, nil
	}
	r, err := p.measure(o, pf)
	if err != nil {
		return "", nil, err
	}
	bundle, err := r.Bundle("coffer measure", time.Time{})
	if err != nil {
		return "", nil, err
	}
	if doc, err = bundle.Encode(); err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("coffer-measure-%s-%s-%dmib-%dcpu", o.TEE, variant, p.plan.MemoryMiB, p.plan.VCPUs), doc, nil
}

func (p *prepared) measure(o *PodOptions, pf *platform.Platform) (*measure.Result, error) {
	s, err := p.launchSpec(o, pf)
	if err != nil {
		return nil, err
	}
	r, err := measure.Launch(s)
	if err == nil {
		r.Debug = o.Debug
	}
	return r, err
}

// Measure says what TEE hardware will measure of a pod that is run with the same
// options: exactly what the runtime would use, nothing registered, nothing started.
func Measure(ctx context.Context, o PodOptions, progress func(string)) (*measure.Result, *launch.Spec, error) {
	p, err := loadPod(o.File)
	if err != nil {
		return nil, nil, err
	}
	pf, err := platformFor(&o)
	if err != nil {
		return nil, nil, err
	}
	src, err := loadSources(o.Images)
	if err != nil {
		return nil, nil, &InputError{err}
	}
	local, err := serveLocal(ctx, src)
	if err != nil {
		return nil, nil, err
	}
	defer local.close()
	t, err := OpenTrustee(ctx, o.Trustee, progress)
	if err != nil {
		return nil, nil, &TrusteeError{err}
	}
	defer t.Release()
	prep, err := prepare(ctx, p, &o, src, t)
	if err != nil {
		return nil, nil, err
	}
	s, err := prep.launchSpec(&o, pf)
	if err != nil {
		return nil, nil, err
	}
	r, err := measure.Launch(s)
	if err != nil {
		return nil, nil, &InputError{err}
	}
	r.Debug = o.Debug
	return r, s, nil
}
