// Package snapshot is containerd's snapshotter for pods whose guest pulls their
// images itself: it keeps names and no files.
//
// containerd asks a snapshotter for each layer of an image that it pulls. One that
// answers "it exists already" makes containerd skip the layer: it is not fetched,
// not decrypted, not unpacked (containerd calls this a remote snapshot). Here every
// layer exists already, and what a container gets as its root on the node is a
// folder without the image: only users' names, which containerd looks up before it
// starts anything (see roots).
//
// It speaks containerd.services.snapshots.v1 as a proxy plugin, and is itself a
// client of containerd for two things: the names of users that images are to run as
// (names), and images that lack layers when another runtime wants them (healer).
//
// Invariants:
//   - nothing of an image is on the node because of this package, and nothing can be
//     put into a snapshot: roots are read-only, Commit is refused;
//   - containerd is the authority on which layers exist. A layer that containerd
//     names and the store does not know is taken as known: losing the store (a
//     reinstallation, a new disk) splits nothing;
//   - an answer is given after it is on disk.
//
// Trust zone: host. Nothing here is trusted: the guest pulls by the digests of the
// pod's policy whatever the node believes to have.
package snapshot
