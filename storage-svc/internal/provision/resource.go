package provision

// ResourceState is what a provider has of a member.
type ResourceState string

// The states of resources.
const (
	ResourceLive      ResourceState = "live"      // the marker says that the storage exists
	ResourceTombstone ResourceState = "tombstone" // the marker says that it was removed for good
	ResourceOrphaned  ResourceState = "orphaned"  // data without a marker
	ResourceDamaged   ResourceState = "damaged"   // the marker cannot be read, or names another member
)

// MaxResources is the longest page of [Provider.List].
const MaxResources = 1000

// Resource is what a provider has of one member. Generation and quota are those of the marker. They are 0 if no
// marker can be read, and a tombstone has no quota.
type Resource struct {
	MemberID   string
	State      ResourceState
	Generation int64
	QuotaBytes int64
}
