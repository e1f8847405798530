package vdisk

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// A UserItem is metadata that a user keeps with an image (2.6.1.2, IsUser).
type UserItem struct {
	ID GUID
	// Disk says that it describes the virtual disk, not the file: changing it
	// changes what children of this image refer to.
	Disk bool
	Data []byte // 1 MiB at most
}

// ErrNoItem answers for a user metadata item that is not there.
var ErrNoItem = errors.New("no such user metadata item")

// maxUserItems is the format's limit (2.6.1.1).
const maxUserItems = 1024

// UserItems are copies of all user metadata items, in the order of the file.
func (im *Image) UserItems() (list []UserItem) {
	im.itemsMu.Lock()
	defer im.itemsMu.Unlock()
	for _, it := range im.items {
		if it.User {
			list = append(list, UserItem{it.ID, it.Disk, bytes.Clone(it.Data)})
		}
	}
	return list
}

// UserItem is a copy of one.
func (im *Image) UserItem(id GUID) (UserItem, error) {
	for _, it := range im.UserItems() {
		if it.ID == id {
			return it, nil
		}
	}
	return UserItem{}, fmt.Errorf("vdisk: %w: %v", ErrNoItem, id)
}

// SetUserItem adds an item, or replaces the one with its ID. It is durable, and
// whole after any crash, when SetUserItem returns.
func (im *Image) SetUserItem(u UserItem) error {
	switch {
	case u.ID.IsZero():
		return errors.New("vdisk: a user metadata item needs an ID")
	case len(u.Data) > maxMetadataItem:
		return fmt.Errorf("vdisk: user metadata item %v of %d bytes; 1 MiB is the most", u.ID, len(u.Data))
	}
	im.reshape.Lock()
	defer im.reshape.Unlock()
	if err := im.writable(); err != nil {
		return err
	}
	next := slices.Clone(im.items)
	i := slices.IndexFunc(next, func(it item) bool { return it.User && it.ID == u.ID })
	if i < 0 {
		users := 0
		for _, it := range next {
			if it.User {
				users++
			}
		}
		if users >= maxUserItems || len(next) >= maxMetadata {
			return fmt.Errorf("vdisk: the image has %d user metadata items already, which is the most", users)
		}
		i = len(next)
		next = append(next, item{})
	}
	next[i] = item{ID: u.ID, User: true, Disk: u.Disk, Data: bytes.Clone(u.Data)}
	return im.storeUser(next, u.Disk)
}

// DeleteUserItem removes an item.
func (im *Image) DeleteUserItem(id GUID) error {
	im.reshape.Lock()
	defer im.reshape.Unlock()
	if err := im.writable(); err != nil {
		return err
	}
	i := slices.IndexFunc(im.items, func(it item) bool { return it.User && it.ID == id })
	if i < 0 {
		return fmt.Errorf("vdisk: %w: %v", ErrNoItem, id)
	}
	disk := im.items[i].Disk
	return im.storeUser(slices.Delete(slices.Clone(im.items), i, i+1), disk)
}

func (im *Image) storeUser(next []item, disk bool) error {
	if err := im.begin(disk); err != nil {
		return err
	}
	return im.storeItems(next)
}
