// Package provider contains the storage providers: a local directory ([FS]), a bucket of an object store
// ([S3]), and a wrapper that makes any provider misbehave on purpose ([Faulty]).
//
// A member's storage exists if, and only if, a marker says so. To create a storage is to create its marker,
// under the condition that there is none. To remove it is to overwrite the marker with a tombstone, which
// stays. A worker may be suspended in the middle of a create and resume after somebody else has removed the
// storage. It then finds the tombstone, and the storage does not come back, even if the worker is killed before
// it could check anything.
package provider
