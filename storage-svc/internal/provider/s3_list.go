package provider

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/signup-saga/signup-saga/storage-svc/internal/provision"
)

const (
	deletePage  = 1000 // objects; the most that one request deletes
	listReaders = 16   // markers that a listing reads at the same time
)

// List returns the resources of the members that follow after, see [provision.Provider]. A page takes one
// request for the members, however much data they have, and one for each marker.
func (p *S3) List(ctx context.Context, after string, limit int) ([]provision.Resource, error) {
	if err := p.ready(ctx); err != nil {
		return nil, err
	}
	found, err := p.list(ctx, after, limit)
	if err != nil {
		return nil, p.doubt(err)
	}
	// Verify again: what is missing from a wrong bucket would count as lost.
	if err := p.verify(ctx); err != nil {
		return nil, err
	}
	return found, nil
}

func (p *S3) list(ctx context.Context, after string, limit int) ([]provision.Resource, error) {
	for {
		ids, err := p.members(ctx, after, clampLimit(limit))
		if err != nil || len(ids) == 0 {
			return nil, err
		}
		found := make([]provision.Resource, len(ids))
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(listReaders)
		for i, id := range ids {
			group.Go(func() (err error) {
				found[i], err = p.resource(ctx, id)
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return nil, err
		}
		found = slices.DeleteFunc(found, func(r provision.Resource) bool { return r.State == "" })
		if len(found) > 0 {
			return found, nil
		}
		after = ids[len(ids)-1]
	}
}

// members returns the first ids that follow after and have any object, in order.
func (p *S3) members(ctx context.Context, after string, limit int) (ids []string, err error) {
	options := minio.ListObjectsOptions{Prefix: memberPrefix, MaxKeys: limit}
	if after != "" {
		options.StartAfter = memberPrefix + after + "0" // "0" follows "/"
	}
	for o := range p.client.ListObjectsIter(ctx, p.bucket, options) {
		if o.Err != nil {
			return nil, failure(o.Err)
		}
		id := strings.TrimSuffix(strings.TrimPrefix(o.Key, memberPrefix), "/")
		if !isMemberID(id) || id <= after {
			continue
		}
		if ids = append(ids, id); len(ids) == limit {
			break
		}
	}
	return ids, ctx.Err() // ending ctx ends the iteration without an error
}

// resource returns what the bucket has of a member. An empty state means nothing.
func (p *S3) resource(ctx context.Context, id string) (provision.Resource, error) {
	content, _, err := p.read(ctx, ownerKey(id))
	if err == nil {
		return resourceOf(id, content), nil
	}
	r := provision.Resource{MemberID: id}
	if !errors.Is(err, errAbsent) {
		return r, err
	}
	// A store on top of a file system may list what is only an empty directory.
	left, err := p.data(ctx, id, false, 1)
	if len(left) > 0 {
		r.State = provision.ResourceOrphaned
	}
	return r, err
}

// data returns the first objects of a member, without the marker.
func (p *S3) data(ctx context.Context, id string, versions bool, limit int) (found []minio.ObjectInfo, err error) {
	options := minio.ListObjectsOptions{Prefix: folder(id), Recursive: true, WithVersions: versions,
		MaxKeys: deletePage}
	for o := range p.client.ListObjectsIter(ctx, p.bucket, options) {
		if o.Err != nil {
			return nil, failure(o.Err)
		}
		if o.Key == ownerKey(id) {
			continue
		}
		if found = append(found, o); len(found) == limit {
			break
		}
	}
	return found, ctx.Err()
}

// removeData deletes a member's objects, page by page, with all their versions.
func (p *S3) removeData(ctx context.Context, id string) error {
	versions, err := p.versioned(ctx)
	if err != nil {
		return err
	}
	var last minio.ObjectInfo
	for {
		page, err := p.data(ctx, id, versions, deletePage)
		if err != nil || len(page) == 0 {
			return err
		}
		if page[0].Key == last.Key && page[0].VersionID == last.VersionID {
			return &provision.Failure{Class: provision.ClassTransient, Err: errors.New("deleted data still exist")}
		}
		last = page[0]
		if err := p.deleteAll(ctx, page); err != nil {
			return err
		}
	}
}

func (p *S3) deleteAll(ctx context.Context, page []minio.ObjectInfo) error {
	results, err := p.client.RemoveObjectsWithIter(ctx, p.bucket, slices.Values(page), minio.RemoveObjectsOptions{})
	if err != nil {
		return failure(err)
	}
	for r := range results {
		if r.Err != nil {
			return failure(r.Err)
		}
	}
	return ctx.Err()
}

// versioned reports whether the bucket keeps, or once kept, old versions.
func (p *S3) versioned(ctx context.Context) (bool, error) {
	v, err := p.client.GetBucketVersioning(ctx, p.bucket)
	var r minio.ErrorResponse
	if errors.As(err, &r) && r.StatusCode == http.StatusNotImplemented {
		return false, nil
	}
	return v.Status != "", failure(err)
}
