package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cofferproject/coffer/api/podpolicy"
)

// counted is images that take a minute and fail as told.
type counted struct {
	pulls map[string]int
	err   error
}

func (c *counted) Prepare(ctx context.Context, x *podpolicy.Container) (*Image, error) {
	c.pulls[x.Name]++
	select {
	case <-time.After(time.Minute):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c.err != nil {
		return nil, c.err
	}
	return &Image{Layers: []string{x.Name}}, nil
}

func TestImagesAreThereAheadOfTheirContainers(t *testing.T) {
	failed := errors.New("no registry")
	policy := &podpolicy.Policy{InitContainers: []podpolicy.Container{{Name: "init"}}, Containers: []podpolicy.Container{{Name: "app"}}}
	for name, c := range map[string]struct {
		wait  time.Duration // from the sandbox to the container
		err   error
		asks  time.Duration // what the request takes
		pulls int
	}{
		"asked at once":     {0, nil, time.Minute, 1},
		"asked later":       {2 * time.Minute, nil, 0, 1},
		"failed meanwhile":  {59 * time.Second, failed, time.Second, 1},
		"failed just now":   {61 * time.Second, failed, 0, 1},
		"failed long since": {2 * time.Minute, failed, time.Minute, 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				below := &counted{map[string]int{}, c.err}
				a := &ahead{Images: below}
				a.begin(policy)
				a.begin(policy)
				time.Sleep(c.wait)
				began := time.Now()
				img, err := a.Prepare(t.Context(), &policy.InitContainers[0])
				if !errors.Is(err, c.err) || err == nil && img.Layers[0] != "init" {
					t.Errorf("%v, %v", img, err)
				}
				if took := time.Since(began); took != c.asks || below.pulls["init"] != c.pulls {
					t.Errorf("the request took %s and there were %d pulls; want %s, %d", took, below.pulls["init"], c.asks, c.pulls)
				}
				// The outcome was that request's; other containers have their own.
				_, _ = a.Prepare(t.Context(), &policy.InitContainers[0])
				_, _ = a.Prepare(t.Context(), &policy.Containers[0])
				if below.pulls["init"] != c.pulls+1 || below.pulls["app"] != 1 {
					t.Errorf("pulls: %v", below.pulls)
				}
			})
		})
	}
}

// locked is images that need something of the trustee.
type locked struct{ released bool }

func (l *locked) Prepare(ctx context.Context, _ *podpolicy.Container) (*Image, error) {
	if err := Asked(ctx); err != nil {
		return nil, err
	}
	l.released = true
	return new(Image), nil
}

func TestNothingIsReleasedForASandboxAlone(t *testing.T) {
	policy := &podpolicy.Policy{Containers: []podpolicy.Container{{Name: "app"}, {Name: "other"}}}
	synctest.Test(t, func(t *testing.T) {
		below := new(locked)
		a := &ahead{Images: below}
		a.begin(policy)
		time.Sleep(time.Minute)
		if below.released {
			t.Error("released before anybody asked for the container")
		}
		if _, err := a.Prepare(t.Context(), &policy.Containers[1]); err != nil || !below.released {
			t.Errorf("another container waits for the first: %v", err)
		}
		below.released = false
		if _, err := a.Prepare(t.Context(), &policy.Containers[0]); err != nil || !below.released {
			t.Errorf("%v", err)
		}
	})
}

func TestWhoAsksMayGiveUp(t *testing.T) {
	policy := &podpolicy.Policy{Containers: []podpolicy.Container{{Name: "app"}}}
	synctest.Test(t, func(t *testing.T) {
		below := &counted{pulls: map[string]int{}}
		a := &ahead{Images: below}
		a.begin(policy)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Prepare(gone, &policy.Containers[0]); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
		select {
		case <-a.asked:
			t.Error("a request that was over before it began counts as asked")
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Prepare(ctx, &policy.Containers[0]); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		select {
		case <-a.done:
		default:
			t.Error("the pull goes on without anybody who wants it")
		}
		if _, err := a.Prepare(t.Context(), &policy.Containers[0]); err != nil || below.pulls["app"] != 2 {
			t.Errorf("%v, pulls: %v", err, below.pulls)
		}
	})
}

// slow is images that take their time.
type slow time.Duration

func (d slow) Prepare(ctx context.Context, _ *podpolicy.Container) (*Image, error) {
	if err := Asked(ctx); err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Duration(d)):
		return new(Image), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// How long a pull may take is for who has asked; only nobody's has an end of its own.
func TestWhoHasAskedHasAllTheTime(t *testing.T) {
	policy := &podpolicy.Policy{Containers: []podpolicy.Container{{Name: "app"}}}
	for _, wait := range []time.Duration{0, aheadTime - time.Second, aheadTime + time.Second, 2 * aheadTime} {
		synctest.Test(t, func(t *testing.T) {
			a := &ahead{Images: slow(2 * aheadTime)}
			a.begin(policy)
			time.Sleep(wait)
			if _, err := a.Prepare(t.Context(), &policy.Containers[0]); err != nil {
				t.Errorf("asked after %s: %v", wait, err)
			}
		})
	}
}
