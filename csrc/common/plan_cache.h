// Plans by key, the least recently used one dropped when there are too many.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace slidesparse {

template <class Key, class Plan>
class PlanCache {
 public:
  explicit PlanCache(std::size_t capacity) : capacity_(capacity) {}

  // The plan of `key`, made by `make()` if there is none. A plan in use outlives its removal.
  template <class Make>
  std::shared_ptr<Plan> get(const Key& key, Make make) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto found = index_.find(key);
    if (found != index_.end()) {
      recent_.splice(recent_.begin(), recent_, found->second);
      return found->second->second;
    }
    std::shared_ptr<Plan> plan = make();
    recent_.emplace_front(key, plan);
    index_[key] = recent_.begin();
    if (recent_.size() > capacity_) {
      index_.erase(recent_.back().first);
      recent_.pop_back();
    }
    return plan;
  }

  std::size_t size() {
    std::lock_guard<std::mutex> lock(mutex_);
    return recent_.size();
  }

 private:
  using Entries = std::list<std::pair<Key, std::shared_ptr<Plan>>>;

  std::size_t capacity_;
  std::mutex mutex_;
  Entries recent_;
  std::map<Key, typename Entries::iterator> index_;
};

}  // namespace slidesparse
